"""What a model is called and which exact content it has: hashes of local files, commits of Hub repositories."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantbench.errors import InputError
from quantbench.paths import cache_dir
from quantbench.progress import track

_CHUNK = 1 << 22
_TEXT = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_SAFETENSORS = ("model*.safetensors",)
_PICKLE = ("pytorch_model*.bin",)


@dataclass(frozen=True)
class ModelIdentity:
    """name: what people call the model; revision: "sha256:..." of its files, or the commit of a Hub repository."""

    name: str
    revision: str


def content_hash(path: Path) -> str:
    """SHA-256 (hex) over the configuration, weight and tokenizer files of a model directory, or over one file.

    Digests of single files are cached in the user's cache directory by path, size and modification time.
    """
    if path.is_file():
        return _file_digest(path)
    weights = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    files = weights + sorted(f for pattern in _TEXT for f in path.glob(pattern) if f.name != "generation_config.json")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {_file_digest(file)}\n".encode())
    return digest.hexdigest()


def resolve_revision(name: str, revision: str) -> str:
    """The commit that ``revision`` of a Hub repository points to; from the local cache when the Hub is out of reach.

    Raises:
        InputError: no such repository or revision, no access to it, or neither Hub nor cached copy.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    with _hub_errors(name, revision):
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        try:
            if not constants.HF_HUB_OFFLINE:
                return str(HfApi().model_info(name, revision=revision).sha)
        except _refusals():
            raise
        except _failures():
            if not isinstance(cached, str):
                raise
        if isinstance(cached, str):
            return Path(cached).parent.name
    raise InputError(_no_access(name, "HF_HUB_OFFLINE is set and the cache has no copy"))


def hub_snapshot(identity: ModelIdentity, *, code: bool) -> Path:
    """Directory with the files of a Hub repository, downloaded where needed; Python files only when ``code``.

    Pickle weights are downloaded only from a repository that has no safetensors.

    Raises:
        InputError: as ``resolve_revision``.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    with _hub_errors(identity.name, identity.revision):
        patterns = [*_TEXT, *(["*.py"] if code else [])]
        try:
            if constants.HF_HUB_OFFLINE:
                raise ConnectionError("HF_HUB_OFFLINE is set")
            names = HfApi().list_repo_files(identity.name, revision=identity.revision)
            safe = any(n.startswith("model") and n.endswith(".safetensors") for n in names)
            patterns += _SAFETENSORS if safe else _PICKLE
            local = False
        except _refusals():
            raise
        except _failures():
            patterns += (*_SAFETENSORS, *_PICKLE)
            local = True
        return Path(
            snapshot_download(
                identity.name, revision=identity.revision, allow_patterns=patterns, local_files_only=local
            )
        )


def _refusals() -> tuple[type[Exception], ...]:
    """What the Hub client raises when the Hub answers that there is no such thing, or not for this user."""
    from huggingface_hub import errors

    return (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)


def _failures() -> tuple[type[Exception], ...]:
    """What it raises when no useful answer comes; a cached copy may help. Refusals are among them: catch those first.

    errors.HTTPError is the base class of whichever HTTP library this version of the client is built on.
    """
    from huggingface_hub import errors

    return (
        errors.HTTPError,
        ConnectionError,
        TimeoutError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
    )


@contextmanager
def _hub_errors(name: str, revision: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"model.name={name} is gated: accept its licence at https://huggingface.co/{name}, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(f"model.name={name}: no such repository on the Hub, or it needs a login") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"model.revision={revision}: {name} has no such revision on the Hub") from error
    except _failures() as error:
        raise InputError(_no_access(name, type(error).__name__)) from error


def _no_access(name: str, reason: str) -> str:
    return (
        f"no access to the Hub for model.name={name} ({reason}). Offline: use model=embedded, or model=local "
        f"model.path=DIR_OR_GGUF, or download it elsewhere (hf download {name}) and set HF_HOME to that cache"
    )


def _file_digest(path: Path) -> str:
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    memo = cache_dir() / "digests" / key
    if memo.is_file() and len(known := memo.read_text()) == 64:
        return known
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        chunks = iter(lambda: stream.read(_CHUNK), b"")
        if status.st_size > 100 * _CHUNK:
            chunks = track(chunks, stage=f"hash {path.name}", unit="chunk", total=-(-status.st_size // _CHUNK))
        for chunk in chunks:
            digest.update(chunk)
    _remember(memo, digest.hexdigest())
    return digest.hexdigest()


def _remember(memo: Path, value: str) -> None:
    """Write atomically; a cache directory that cannot be written only costs hashing again."""
    temporary = memo.with_name(f"{memo.name}.{os.getpid()}")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(value)
        temporary.replace(memo)
    except OSError:
        temporary.unlink(missing_ok=True)
