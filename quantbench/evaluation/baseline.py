"""Full precision's results, computed once and kept on disk: per-window NLL, final states, task items."""

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from quantbench.errors import InputError
from quantbench.evaluation.scoring import Readout
from quantbench.evaluation.tasks import TaskScores

_WRITING = ".writing-"
_META = "meta.json"
_HEAD = "head.safetensors"
_SHARD_BYTES = 2**28


class DamagedBaselineError(RuntimeError):
    """A cache entry that is incomplete or not what was written."""


@dataclass(frozen=True)
class Baseline:
    """Full precision on one evaluation. nll [windows]: mean NLL per window; scores: the tasks' items.

    The states that predict the targets stay on disk, beside the output head that reads them: a method may change the
    model's own head and the basis of its states.
    """

    folder: Path
    nll: NDArray[np.float64]
    scores: tuple[TaskScores, ...]
    shards: tuple[str, ...]
    softcap: float | None

    def states(self) -> Iterator[torch.Tensor]:
        """The states [T, hidden] of every window, in order."""
        for shard in self.shards:
            with safe_open(self.folder / shard, framework="pt") as tensors:
                for key in sorted(tensors.keys()):
                    yield tensors.get_tensor(key)

    def readout(self, device: torch.device) -> Readout:
        """Full precision's map from those states to logits."""
        if not (self.folder / _HEAD).exists():
            return Readout(None)
        with safe_open(self.folder / _HEAD, framework="pt") as tensors:
            weight = tensors.get_tensor("weight").to(device)
            bias = tensors.get_tensor("bias").to(device) if "bias" in tensors.keys() else None  # noqa: SIM118
        return Readout(lambda states: nn.functional.linear(states, weight, bias), self.softcap)


def cache_key(identity: dict[str, Any]) -> str:
    """sha256 of everything that determines a baseline.

    Raises:
        TypeError: a value that JSON cannot hold, so that no object's address gets into the key.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class BaselineWriter:
    """Writes one entry into a temporary folder beside its place; ``commit`` renames it there in one step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        prefix = f"{_WRITING}{socket.gethostname()}@{os.getpid()}@"
        self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        self._buffer: dict[str, torch.Tensor] = {}
        self._buffered = 0
        self._shards: list[str] = []

    def require(self, needed: int) -> None:
        """Raises InputError unless ``needed`` bytes fit on the disk."""
        free = shutil.disk_usage(self._temporary).free
        if needed > free:
            raise InputError(
                f"comparing with full precision's predictions needs {needed / 1e9:.1f} GB in {self._folder.parent} and "
                f"{free / 1e9:.1f} GB are free; use evaluation.divergence=false or a smaller evaluation.max_windows"
            )

    def add_states(self, index: int, states: torch.Tensor) -> None:
        """Keep the states [T, hidden] of window ``index``."""
        self._buffer[f"{index:08d}"] = states.contiguous().cpu().clone()
        self._buffered += states.nbytes
        if self._buffered >= _SHARD_BYTES:
            self._flush()

    def add_head(self, head: nn.Linear) -> None:
        """Keep the output head that reads the states."""
        tensors = {"weight": head.weight} if head.bias is None else {"weight": head.weight, "bias": head.bias}
        save_file({name: t.detach().cpu().clone() for name, t in tensors.items()}, self._temporary / _HEAD)

    def commit(
        self, nll: NDArray[np.float64], scores: list[TaskScores], softcap: float | None, identity: dict[str, Any]
    ) -> None:
        """Write the rest, then put the finished entry in its place (another process's finished entry may win)."""
        self._flush()
        files = {path.name: _digest(path) for path in sorted(self._temporary.iterdir())}
        body = {
            "identity": identity,
            "files": files,
            "shards": self._shards,
            "softcap": softcap,
            "nll": nll.tolist(),
            "scores": [asdict(score) for score in scores],
        }
        text = json.dumps(body)
        (self._temporary / _META).write_text(json.dumps({"sha256": _text_digest(text), "body": text}))
        try:
            os.rename(self._temporary, self._folder)
        except OSError:
            if not self._folder.is_dir():
                raise
            self.discard()

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _flush(self) -> None:
        if self._buffer:
            name = f"states-{len(self._shards):05d}.safetensors"
            save_file(self._buffer, self._temporary / name)
            self._shards.append(name)
            self._buffer, self._buffered = {}, 0


def _remove_abandoned(parent: Path) -> None:
    """Remove what a killed process of this machine was writing; it can be gigabytes."""
    for path in parent.glob(f"{_WRITING}{socket.gethostname()}@*"):
        process = path.name.split("@")[1]
        if process.isdigit() and not Path("/proc", process).exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)


def read_baseline(folder: Path) -> Baseline:
    """Open a finished entry after checking every file's sha256.

    Raises:
        DamagedBaselineError: a file is missing, cut short or altered.
    """
    try:
        meta = json.loads((folder / _META).read_text())
        if _text_digest(meta["body"]) != meta["sha256"]:
            raise DamagedBaselineError(f"{_META} does not match its checksum")
        body = json.loads(meta["body"])
        for name, expected in body["files"].items():
            if _digest(folder / name) != expected:
                raise DamagedBaselineError(f"{name} does not match its checksum")
        scores = tuple(
            TaskScores(**score | {"keys": tuple(score["keys"]), "values": tuple(score["values"])})
            for score in body["scores"]
        )
        return Baseline(folder, np.array(body["nll"]), scores, tuple(body["shards"]), body["softcap"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedBaselineError(str(error) or type(error).__name__) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
