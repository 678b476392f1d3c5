"""Every kernel is compiled for the GPUs that people have, and keeps everything in registers."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from quantbench.kernels.compiled import ARCHITECTURES, resources, specializations


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("specialization", specializations(), ids=lambda found: found.name)
def test_no_register_is_spilled(specialization, architecture):
    used = resources(specialization, architecture)
    assert used.spill_bytes == 0, used
    assert 0 < used.registers <= 255


def test_a_tile_that_is_too_large_would_be_noticed():
    from dataclasses import replace

    fits = next(s for s in specializations() if s.kernel.__name__ == "gptq_kernel")
    too_large = replace(fits, constants={**fits.constants, "ROWS": 64}, warps=1)
    assert resources(too_large, 90).spill_bytes > 0
