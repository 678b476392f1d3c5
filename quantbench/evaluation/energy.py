"""The energy that a GPU has taken, where NVIDIA's management library tells (nvidia-ml-py)."""

from collections.abc import Callable

import torch

_MILLI = 1e-3


def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """A function that gives the joules since the driver was loaded; None where nothing tells."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (pynvml.NVMLError, AttributeError):  # GPUs before Volta do not count, and older torch knows no uuid
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * _MILLI
