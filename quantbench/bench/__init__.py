"""``python -m quantbench bench``: how long things take and how true they are, beside others or the truth."""

import importlib
from collections.abc import Sequence

from quantbench.errors import InputError

BENCHMARKS = {
    "coverage": "quantbench.bench.coverage",
    "decode": "quantbench.bench.decode",
    "evaluation": "quantbench.bench.evaluation",
    "kernels": "quantbench.bench.kernels",
    "quantize": "quantbench.bench.quantize",
    "store": "quantbench.bench.store",
    "sweep": "quantbench.bench.sweep",
}


def main(argv: Sequence[str]) -> int:
    """Run one benchmark by name."""
    if not argv or argv[0] not in BENCHMARKS:
        given = argv[0] if argv else "(nothing)"
        raise InputError(f"bench {given}: allowed are {', '.join(BENCHMARKS)} (bench NAME --help shows the usage)")
    return int(importlib.import_module(BENCHMARKS[argv[0]]).main(argv[1:]))
