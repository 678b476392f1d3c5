"""Which implementation of an operation runs: Triton's on CUDA where it is installed, torch's everywhere else."""

import os
from functools import cache
from importlib.util import find_spec

from torch import Tensor


@cache
def triton_installed() -> bool:
    """Whether Triton can be imported (CUDA builds of torch bring it along)."""
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton interprets its kernels on the CPU (``TRITON_INTERPRET=1``): slow, for checking them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(tensor: Tensor) -> bool:
    """Whether an operation on ``tensor`` should go to its Triton kernel."""
    return (tensor.is_cuda or (interpreted() and tensor.device.type == "cpu")) and triton_installed()
