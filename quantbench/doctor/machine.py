"""Checks of the machine and of torch on it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from quantbench.doctor.finding import Finding
from quantbench.report.numbers import size
from quantbench.store.identity import machine

_OLDEST_PYTHON = (3, 10)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
_LEAST_MEMORY = 2 * 2**30  # the embedded model needs about half of it
_LEAST_DISK = 2**30


def python() -> Iterator[Finding]:
    """The interpreter."""
    recent = sys.version_info[:2] >= _OLDEST_PYTHON
    yield Finding("python", recent, platform.python_version(), "install Python 3.10 or later", required=True)


def processor() -> Iterator[Finding]:
    """Cores and the instructions that torch's kernels use."""
    facts = machine()
    flags = [flag for flag in _CPU_FLAGS if flag in _flags()]
    bfloat16 = any("bf16" in flag for flag in flags)
    note = "" if bfloat16 else "; bfloat16 is emulated: score in float32"
    yield Finding("processor", True, f"{facts['cpu']}, {facts['cores']} cores, {' '.join(flags) or 'no flags'}{note}")


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    named = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return set(next(named, []))


def memory() -> Iterator[Finding]:
    """Host memory and space where results and caches go."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    total = int(machine()["memory"])
    remedy = "choose a machine with 2 GiB of memory or more"
    yield Finding("memory", total >= _LEAST_MEMORY, f"{size(total)}, {size(available)} of it unused", remedy)
    free = shutil.disk_usage(".").free
    yield Finding("disk", free >= _LEAST_DISK, f"{size(free)} free here", "free some space, or set results_dir")


def torch_build() -> Iterator[Finding]:
    """torch: its build, and that it computes."""
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", False, f"not importable ({error})", "pip install torch", required=True)
        return
    works = bool((torch.ones(8, 8) @ torch.ones(8, 8) == 8).all())
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    level = torch.backends.cpu.get_cpu_capability()
    detail = f"{torch.__version__}, {build}, {torch.get_num_threads()} threads, kernels for {level}"
    yield Finding("torch", works, detail, "reinstall torch: a product of two matrices is wrong", required=True)
    yield _cuda(torch)


def _cuda(torch: "object") -> Finding:
    cuda, version = torch.cuda, torch.version.cuda  # type: ignore[attr-defined]
    if cuda.is_available():
        devices = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
        named = [f"{d.name} ({size(d.total_memory)}, compute capability {d.major}.{d.minor})" for d in devices]
        return Finding("cuda", True, ", ".join(named))
    if version is None:
        return Finding(
            "cuda", False, "this torch has none", "install a CUDA build of torch: pytorch.org/get-started/locally"
        )
    return Finding("cuda", False, "no GPU visible to torch", "install NVIDIA's driver, or set CUDA_VISIBLE_DEVICES")
