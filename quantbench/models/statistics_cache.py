"""Statistics of full-precision activations on disk, so that a later sweep, or another node, need not collect them."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import transformers
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

import quantbench
from quantbench.errors import InputError
from quantbench.methods.stats import SiteStats
from quantbench.models.structure import Block, Structure
from quantbench.paths import cache_dir
from quantbench.processor import processor_name

_LOG = logging.getLogger(__name__)

LIMIT = "QUANTBENCH_STATISTICS_GB"
FOLDER = "statistics"
_VERSION = 1  # of what is collected and how: entries of another version are not found
_DEFAULT_GB = 10.0
_DIGEST = 16  # bytes of xxh3_128
_STRIP = 256  # rows of the upper triangle that are kept together
_ABANDONED_SECONDS = 3600


class StatisticsCache:
    """One file for each block and all its sites, named by everything that they depend on.

    Writers share the folder freely, also over a network: a file is renamed to its place when it is whole, and equal
    names mean equal contents. When all files take more than ``limit`` bytes, those read longest ago are removed.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @classmethod
    def of_user(cls) -> "StatisticsCache | None":
        """The user's, as large as ``$QUANTBENCH_STATISTICS_GB`` says (10 by default); None where that is 0.

        Raises:
            InputError: the variable is no number.
        """
        given = os.environ.get(LIMIT, str(_DEFAULT_GB))
        try:
            limit = int(float(given) * 1e9)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{LIMIT}={given}: allowed is a number of gigabytes, 0 for no statistics cache") from error
        return cls(cache_dir() / FOLDER, limit=limit) if limit > 0 else None

    def read(self, key: str, device: torch.device) -> dict[str, SiteStats] | None:
        """Statistics by site name, or None where they are not there or are damaged, which is reported."""
        file = self._file(key)
        try:
            content = file.read_bytes()
            os.utime(file)
        except OSError:
            return None
        digest, body = content[:_DIGEST], content[_DIGEST:]
        try:
            if xxhash.xxh3_128_digest(body) != digest:
                raise ValueError("it does not match its checksum")
            return _unpacked(load(body), device)
        except (ValueError, KeyError, SafetensorError) as error:
            _LOG.warning("cached statistics %s are damaged (%s): collecting them again", file, error)
            with suppress(OSError):
                file.unlink()
            return None

    def write(self, key: str, stats: dict[str, SiteStats]) -> None:
        """Keep statistics, unless they are; a folder that cannot be written costs collecting them again, no more."""
        file = self._file(key)
        if file.exists():
            return
        body = save(_packed(stats))
        temporary = file.with_name(f".{file.name}.{uuid4().hex}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(xxhash.xxh3_128_digest(body) + body)
            temporary.replace(file)
            self._trim()
        except OSError as error:
            _LOG.warning("statistics are not cached in %s: %s", self.folder, error.strerror or error)
            with suppress(OSError):
                temporary.unlink()

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.stats"

    def _trim(self) -> None:
        """Remove what was read longest ago until the rest fits, and what a killed writer left."""
        entries = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process may remove it now
                status = path.stat()
                if path.name.startswith("."):
                    if time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        path.unlink()
                else:
                    entries.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def _packed(stats: dict[str, SiteStats]) -> dict[str, Tensor]:
    """Tensors to be stored; of the symmetric Gram matrix only strips from the diagonal on."""
    tensors = {}
    for name, site in stats.items():
        rows = range(0, len(site.gram), _STRIP)
        tensors[f"{name}/gram"] = torch.cat([site.gram[row : row + _STRIP, row:].reshape(-1) for row in rows]).cpu()
        tensors[f"{name}/absmax"], tensors[f"{name}/abs_sum"] = site.absmax.cpu(), site.abs_sum.cpu()
        tensors[f"{name}/counts"] = torch.tensor([site.count, site.dropped])
    return tensors


def _unpacked(tensors: dict[str, Tensor], device: torch.device) -> dict[str, SiteStats]:
    stats = {}
    for name in {key.rpartition("/")[0] for key in tensors}:
        absmax, abs_sum = tensors[f"{name}/absmax"], tensors[f"{name}/abs_sum"]
        count, dropped = tensors[f"{name}/counts"].tolist()
        columns, start, packed = len(absmax), 0, tensors[f"{name}/gram"]
        site = SiteStats.empty(columns)
        for row in range(0, columns, _STRIP):
            strip = site.gram[row : row + _STRIP, row:]
            strip.copy_(packed[start : start + strip.numel()].view(strip.shape))
            start += strip.numel()
        site.complete()
        stats[name] = SiteStats(site.gram.to(device), absmax.to(device), abs_sum.to(device), count, dropped)
    return stats


class PrefixKeys:
    """Names for the statistics of one block after the other, for one set of calibration tokens.

    A block's inputs depend on the weights before it and its own, on the tokens and how they are batched, and on what
    computes: results of other libraries, devices or numbers of threads need not be equal to the last bit.
    """

    def __init__(self, model: Any, structure: Structure, ids: Tensor, *, batch: int, device: torch.device) -> None:
        inside = tuple(f"{block.name}." for block in structure.blocks)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
        settings = {
            "version": _VERSION,
            "prefix": "fp",
            "model": [type(model).__name__, model.config.to_dict(), str(model.config._attn_implementation)],
            "batch": batch,
            "device": [device.type, name, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
            "libraries": [torch.__version__, transformers.__version__, quantbench.__version__],
        }
        self._hash = xxhash.xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
        self._add("ids", ids)
        for name, tensor in _tensors(model):
            if not name.startswith(inside):
                self._add(name, tensor)

    def of(self, block: Block) -> str:
        """The name for the next block of the model; to be asked for every block, in order."""
        for name, tensor in _tensors(block.module):
            self._add(name, tensor)
        return self._hash.hexdigest()

    def _add(self, name: str, tensor: Tensor) -> None:
        self._hash.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        self._hash.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
