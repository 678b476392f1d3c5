"""Models by configuration: from the package, a local directory or GGUF file, or the Hub."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from quantbench.errors import InputError
from quantbench.models.canonical import canonicalise_
from quantbench.models.identity import ModelIdentity, content_hash, hub_snapshot, resolve_revision
from quantbench.paths import cache_dir

_UNUSABLE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError)
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class Model:
    """Which model to load. default_dtype: what ``dtype=auto`` means for it; None: the checkpoint's own."""

    default_dtype: str | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.default_dtype is not None and self.default_dtype not in DTYPES[1:]:
            raise ValueError(f"model.default_dtype={self.default_dtype}: allowed are {', '.join(DTYPES[1:])} or null")


@dataclass
class EmbeddedModel(Model):
    """The small model that travels in the package."""


@dataclass
class LocalModel(Model):
    """A directory in the layout of the Hub, or a GGUF file (loaded dequantized)."""

    path: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if not self.path:
            raise ValueError("model.path is empty: allowed is a model directory or a .gguf file")


@dataclass
class HubModel(Model):
    """A repository on the Hugging Face Hub; trust_remote_code lets the repository's own Python run."""

    name: str = ""
    revision: str = "main"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if not self.name or not self.revision:
            raise ValueError("model.name or model.revision is empty: allowed is ORGANISATION/NAME and a revision")


@dataclass
class WorldModel(Model):
    """A model that is trained on the embedded world's text when it is first asked for, and then cached.

    Llama with a norm before every linear (BitNet's SubLN, arXiv 2310.11453, section 2.1), so that the same model can be
    trained again with BitLinear (``training=scratch``). AdamW on ``steps`` batches of ``batch_size`` windows of
    ``seqlen`` tokens; the rate ``lr`` rises over ``warmup`` steps and falls linearly to zero over the last ``decay`` of
    them; weight_decay: of the blocks' matrices; seed: of the first weights.
    """

    name: str = "world"
    hidden_size: int = 64
    intermediate_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    steps: int = 300
    batch_size: int = 4
    seqlen: int = 256
    lr: float = 4e-3
    warmup: int = 30
    decay: float = 0.4
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads", "steps", "batch_size", "seqlen"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: allowed is a positive integer")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"model.hidden_size={self.hidden_size}: allowed are multiples of 2 x model.num_heads")
        for name, least, most in (("lr", 0, 1), ("decay", 0.01, 1), ("weight_decay", 0, 1), ("warmup", 0, self.steps)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"model.{name}={getattr(self, name)}: allowed are {least} to {most}")

    @property
    def revision(self) -> str:
        """A hash of the recipe: what is trained is known before it is, but for the order in which floats are added."""
        recipe = {key: value for key, value in asdict(self).items() if key not in ("name", "default_dtype")}
        return f"recipe:{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]}"

    @property
    def folder(self) -> Path:
        """Where the trained model lies."""
        return cache_dir() / "models" / self.revision.removeprefix("recipe:")


@dataclass(frozen=True)
class LoadedModel:
    """A canonical causal language model on the CPU, in eval mode, without gradients.

    notes: what loading had to decide, in words; dtype: that of the weights.
    """

    model: nn.Module
    tokenizer: Any
    identity: ModelIdentity
    dtype: torch.dtype
    notes: tuple[str, ...]


def identify(cfg: Model) -> ModelIdentity:
    """Name and content revision of the model, without loading it.

    The revision is a hash of the files of a local or embedded model, or the commit of a Hub repository (from the cache
    when the Hub cannot be reached).

    Raises:
        InputError: missing path, no config.json, no weights, unknown repository, no Hub access.
    """
    if isinstance(cfg, HubModel):
        return ModelIdentity(cfg.name, resolve_revision(cfg.name, cfg.revision))
    if isinstance(cfg, WorldModel):
        return ModelIdentity(cfg.name, cfg.revision)
    path = _local_path(cfg)
    name = "embedded" if isinstance(cfg, EmbeddedModel) else path.resolve().name
    return ModelIdentity(name, f"sha256:{content_hash(path)[:16]}")


def load(
    cfg: Model, dtype: str, *, identity: ModelIdentity | None = None, device: torch.device | None = None
) -> LoadedModel:
    """Load model and tokenizer; no file of the model runs code unless ``trust_remote_code`` says so.

    dtype: one of ``DTYPES``; auto is the model's default_dtype, else the checkpoint's, with float16 computed as float32
    unless ``device`` (default: the CPU), where it will compute, is CUDA. identity: what ``identify`` said, if known.

    Raises:
        InputError: the model cannot be had, is not a causal language model, lacks weights or tokenizer, or is already
            quantized.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype}: allowed are {', '.join(DTYPES)}")
    identity = identity or identify(cfg)
    remote_code = isinstance(cfg, HubModel) and cfg.trust_remote_code
    path = hub_snapshot(identity, code=remote_code) if isinstance(cfg, HubModel) else _local_path(cfg)
    wanted = (cfg.default_dtype or "auto") if dtype == "auto" else dtype
    if path.suffix == ".gguf":
        from quantbench.models.gguf import load_gguf

        model, tokenizer, notes = *load_gguf(path, wanted), ["dequantized from GGUF"]
    else:
        model, tokenizer, notes = _load_directory(path, wanted, remote_code)
    if wanted == "auto" and model.dtype == torch.float16 and (device is None or device.type != "cuda"):
        model.float()
        notes.append("float16 checkpoint computed in float32 on a CPU")
    if model.config._attn_implementation != "sdpa":
        notes.append(f"attention computed by {model.config._attn_implementation}")
    model.config.use_cache = False
    model.eval().requires_grad_(False)
    canonicalise_(model)
    return LoadedModel(model, tokenizer, identity, model.dtype, tuple(notes))


def _local_path(cfg: Model) -> Path:
    if isinstance(cfg, WorldModel):
        return cfg.folder
    if isinstance(cfg, EmbeddedModel):
        path = Path(str(resources.files("quantbench"))) / "assets" / "world"
        if not (path / "config.json").is_file():
            raise InputError("model=embedded: this installation lacks the embedded model; use model=local or model=hub")
        return path
    assert isinstance(cfg, LocalModel)
    path = Path(cfg.path).expanduser()
    if not path.exists():
        raise InputError(f"model.path={cfg.path}: no such directory or file")
    if path.is_file() and path.suffix != ".gguf":
        raise InputError(f"model.path={cfg.path}: allowed is a directory with config.json or a file ending in .gguf")
    if path.is_dir():
        _read_config(path)
        _weights_are_safetensors(path)
    return path


def _load_directory(path: Path, dtype: str, remote_code: bool) -> tuple[Any, Any, list[str]]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    _check_config(path, remote_code)
    safetensors = _weights_are_safetensors(path)
    notes = [] if safetensors else ["weights read from pickle files by torch's weights_only loader"]
    with one_line(f"cannot load the model in {path.name}"):
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=safetensors,
            weights_only=True,
            trust_remote_code=remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that check_complete can say which
        )
    check_complete(path.name, info)
    return model, load_tokenizer(path, trust_remote_code=remote_code), notes


def load_tokenizer(path: Path, **kwargs: Any) -> Any:
    """The tokenizer in a directory (or in the GGUF file named by ``gguf_file``); InputError when there is none."""
    from transformers import AutoTokenizer

    with one_line(f"no tokenizer could be loaded from {path.name}"):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, **kwargs)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(f"no tokenizer found in {path.name}: looked for tokenizer.json, tokenizer.model ...")
    return tokenizer


def check_complete(name: str, info: dict[str, Any]) -> None:
    """Refuse weights that would be left at their random initial values or that do not fit the configuration."""
    missing = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing:
        raise InputError(
            f"the weights in {name} do not fit its configuration as a causal language model: {len(missing)} tensors "
            f"are missing or of another shape, first {missing[0]}"
        )


def _check_config(path: Path, remote_code: bool) -> None:
    """Refuse, before any weight is read: no config, unknown or not causal architectures, quantized checkpoints."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    raw = _read_config(path)
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "unknown method")
        raise InputError(f"{path.name} is already quantized ({method}); quantbench needs the full-precision checkpoint")
    with one_line(f"unknown architecture model_type={raw.get('model_type')} in {path.name}"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=remote_code, local_files_only=True)
    if remote_code and "AutoModelForCausalLM" in raw.get("auto_map", {}):
        return
    architectures = raw.get("architectures") or []
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    says_so = not architectures or any(a in causal or a.lower().endswith("forcausallm") for a in architectures)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not says_so:
        raise InputError(
            f"{path.name} is not a causal language model: model_type={config.model_type}, architectures={architectures}"
        )


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise InputError(f"{path} has no config.json: allowed is a model directory as on the Hub, or a .gguf file")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file} must hold a JSON object")
    return raw


def _weights_are_safetensors(path: Path) -> bool:
    for suffix, stem in ((".safetensors", "model"), (".bin", "pytorch_model")):
        if any((path / f"{stem}{end}").is_file() for end in (suffix, f"{suffix}.index.json")):
            return suffix == ".safetensors"
    raise InputError(f"{path.name} has no weights: looked for model.safetensors, pytorch_model.bin or an index")


@contextmanager
def one_line(problem: str) -> Iterator[None]:
    """Turn what a library raises for unusable files into an InputError of one line."""
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except (*_UNUSABLE, SafetensorError, UnpicklingError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{problem}: {detail[:300]}") from error
