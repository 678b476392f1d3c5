"""Running contenders as processes, scoring what they wrote, and keeping the results so that a study can be resumed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantbench.bench.contenders import Contender
from quantbench.bench.document import write_json
from quantbench.errors import InputError

_TAIL = 3  # lines of a failed process that are shown


@dataclass(frozen=True)
class Setting:
    """What every contender gets, and where results go.

    ids: token ids by number of windows (None: all), .npy files; peers: the interpreter of each library's environment;
    runners: the folder of the libraries' runner scripts; text, protocol, windows: what models are scored on.
    """

    model: Path
    ids: Mapping[int | None, Path]
    out: Path
    peers: Mapping[str, str]
    runners: Path
    text: str
    protocol: str
    windows: int
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """What is known of one contender: what each of its runs printed, and the NLL of every window [nats]."""

    runs: list[dict[str, Any]]
    nll: list[float]

    @classmethod
    def read(cls, path: Path, facts: Mapping[str, Any]) -> "Result":
        """The stored result, empty when there is none of this setting."""
        if path.is_file():
            stored = json.loads(path.read_text())
            if stored["setting"] == dict(facts):
                return cls(stored["runs"], stored["nll"])
        return cls([], [])

    def write(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Store, by renaming a finished file."""
        write_json(path, {"setting": dict(facts), "runs": self.runs, "nll": self.nll})


def run_once(contender: Contender, setting: Setting) -> None:
    """Run a contender in a process of its own, score what it wrote if it never was, and store both.

    Raises:
        InputError: the process failed; the message ends with what it said.
    """
    path = result_path(contender, setting)
    result = Result.read(path, setting.facts)
    written = setting.out / "models" / contender.name
    shutil.rmtree(written, ignore_errors=True)
    written.parent.mkdir(parents=True, exist_ok=True)
    ids = setting.ids[contender.samples]
    command = [*_command(contender, setting), str(setting.model), str(ids), str(written), *contender.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-_TAIL:])
        raise InputError(f"{contender.name} failed: {said}")
    result.runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    if not result.nll:
        result.nll = score(written, setting)
    shutil.rmtree(written)
    result.write(path, setting.facts)


def result_path(contender: Contender, setting: Setting) -> Path:
    """Where a contender's result is stored."""
    return setting.out / f"{contender.name}.json"


def _command(contender: Contender, setting: Setting) -> list[str]:
    if not contender.peer:
        return [sys.executable, "-m", "quantbench.bench.ours"]
    return [setting.peers[contender.peer], str(setting.runners / f"{contender.peer}_run.py")]


def score(model_dir: Path, setting: Setting) -> list[float]:
    """Mean NLL of each window under the model in a HF directory, in fp32: the same code for every contender."""
    import torch

    from quantbench.data.corpora import load_documents
    from quantbench.evaluation.protocols import make_windows
    from quantbench.evaluation.scoring import nll_windows
    from quantbench.models.load import LocalModel, load

    loaded = load(LocalModel(path=str(model_dir)), "float32")
    model_config: Any = loaded.model.config
    documents = load_documents(setting.text, "test")
    windows = make_windows(
        setting.protocol,
        documents,
        loaded.tokenizer,
        max_context=model_config.max_position_embeddings,
        max_windows=setting.windows,
    )
    with torch.inference_mode():
        return [float(value) for value in nll_windows(loaded.model, windows.windows, stage=f"score {model_dir.name}")]
