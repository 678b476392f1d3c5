"""What kernels write must cover their whole output: fresh memory is filled with NaN, or with all bits set."""

import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch):
    def fill(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return (
                tensor.fill_(float("nan"))
                if tensor.is_floating_point()
                else tensor.fill_(-1 if tensor.dtype.is_signed else 255)
            )

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, fill(getattr(torch, name)))
