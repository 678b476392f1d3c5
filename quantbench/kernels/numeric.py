"""Device functions that the Triton kernels share. Import it only where Triton is."""

import triton
import triton.language as tl

_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: at this size fp32 has no fraction, so adding it rounds half to even
_BEYOND = tl.constexpr(1048576.0)


@triton.jit
def round_even(x):
    """x rounded half to even; beyond 2^20 it stays there (a code is clamped to far less)."""
    return (tl.minimum(tl.maximum(x, -_BEYOND), _BEYOND) + _MAGIC) - _MAGIC


@triton.jit
def clamp(x, low, high):
    """x between low and high."""
    return tl.minimum(tl.maximum(x, low), high)
