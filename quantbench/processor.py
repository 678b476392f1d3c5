"""What computes, where it is not an accelerator."""

import platform
from pathlib import Path


def processor_name() -> str:
    """As the system calls it; platform.processor() is empty on many."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
