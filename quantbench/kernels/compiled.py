"""What kernels take of a GPU, found out without one: compiled, then assembled by the ptxas that Triton brings along."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

OPERATIONS = ("awq", "gptq", "hadamard", "hqq", "kmeans", "linear", "rtn", "sparse", "w8a8")
ARCHITECTURES = (80, 90)
_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Specialization:
    """A kernel as it is launched for one kind of problem.

    arguments: the type of every argument that is no constant (``*fp32`` is a pointer); constants: the others; aligned:
    the arguments that are multiples of 16, as pointers always are.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 3
    fp_fusion: bool = True
    aligned: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Resources:
    """Registers of a thread, and bytes that it spills and that a block shares."""

    registers: int
    spill_bytes: int
    shared_bytes: int


def specializations() -> list[Specialization]:
    """Those of every operation."""
    found: list[Specialization] = []
    for operation in OPERATIONS:
        found += import_module(f"quantbench.kernels.{operation}.triton").specializations()
    return found


def resources(specialization: Specialization, architecture: int) -> Resources:
    """Compile for an architecture (90: sm_90) and ask the assembler."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = specialization.kernel.arg_names
    signature = {name: specialization.arguments.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in specialization.constants.items()}
    aligned = [n for n, kind in specialization.arguments.items() if kind.startswith("*") or n in specialization.aligned]
    source = ASTSource(
        fn=specialization.kernel,
        signature=signature,
        constexprs=constants,
        attrs={(names.index(name),): _ALIGNED for name in aligned},
    )
    options = {
        "num_warps": specialization.warps,
        "num_stages": specialization.stages,
        "enable_fp_fusion": specialization.fp_fusion,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return Resources(*_assembled(compiled.asm["ptx"], architecture), compiled.metadata.shared)


def _assembled(ptx: str, architecture: int) -> tuple[int, int]:
    """Registers and spilled bytes, as ptxas reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(ptx)
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target[1]}", "kernel.ptx", "-o", "kernel.cubin"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", said)]
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill (?:stores|loads)", said)]
    return max(registers), sum(spills)
