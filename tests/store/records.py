"""Made-up runs for the tests of the store and the report."""

import json

import numpy as np

from quantbench.measurement import Measurement, Samples
from quantbench.store.failures import Failure
from quantbench.store.record import RunIdentity

_UNCALIBRATED = {
    "calibration": None,
    "num_samples": None,
    "seqlen": None,
    "calibration_hash": None,
    "statistics": "none",
}
_UNQUANTIZED = {"bits": None, "group_size": None, "symmetric": None, "rounding": "none", "bits_per_weight": 32.0}


def identity(**changes) -> RunIdentity:
    fields = {
        "run_id": "a1",
        "method": "gptq",
        "variant": "",
        "format": "int",
        "range": "minmax",
        "transform": "none",
        "rounding": "gptq",
        "allocation": "uniform",
        "activation": "none",
        "kv_cache": "none",
        "training": "none",
        "bits": 4,
        "activation_bits": 16,
        "kv_bits": 16,
        "group_size": 64,
        "symmetric": False,
        "statistics": "propagate",
        "bits_per_weight": 4.5,
        "quantized_bytes": 9_000_000,
        "model_bytes": 12_000_000,
        "model": "tiny",
        "model_revision": "sha256:0123456789abcdef",
        "protocol": "gptq-512",
        "corpus": "text",
        "evaluation_hash": "e1",
        "calibration": "c4",
        "num_samples": 128,
        "seqlen": 2048,
        "calibration_hash": "c1",
        "contaminated": False,
        "seed": 0,
        "dtype": "float32",
        "device": "cpu",
        "config": json.dumps({"rounding": {"damp_percent": 0.01}, "evaluation": {"num_fewshot": None}}),
        "versions": json.dumps({"python": "3.11"}),
        "git_commit": "f" * 40,
        "git_dirty": False,
        "created": "2026-01-02T03:04:05+00:00",
        "seconds": json.dumps({"load": 1.25, "quantize": 20.5}),
        "peak_memory": json.dumps({"quantize": {"host": 2**30}}),
        "notes": json.dumps(["2 dead columns in block 0"]),
    }
    return RunIdentity(**(fields | changes))


def uncalibrated(**changes) -> RunIdentity:
    return identity(**(_UNCALIBRATED | changes))


def full_precision(**changes) -> RunIdentity:
    return uncalibrated(**(_UNQUANTIZED | {"method": "fp16", "run_id": "fp"} | changes))


def perplexity(value: float, *, half: float = 0.5, **changes) -> Measurement:
    interval = {"stderr": half / 2, "ci_low": value - half, "ci_high": value + half}
    fields = {"task": "text", "unit": "ppl", "count": 3, "baseline": 10.0}
    return Measurement(metric="perplexity", value=value, **(fields | interval | changes))


def with_samples(offset: float = 0.0) -> list[Measurement]:
    """Perplexity of three windows and accuracy of four items, with their samples."""
    nll = np.array([2.25, 2.5, 2.375]) + offset
    windows = Samples(("w0", "w1", "w2"), nll, np.full(3, 511.0), nll - 0.125)
    items = Samples(("i0", "i1", "i2", "i3"), np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4))
    return [
        perplexity(float(np.exp(nll.mean())), samples=windows),
        Measurement("acc", "facts", 0.75, "fraction", 4, stderr=0.25, higher_is_better=True, samples=items),
    ]


def failure(**changes) -> Failure:
    fields = {
        "run_id": "a1",
        "error": "QuantizationError",
        "reason": "model.layers.0: not positive definite",
        "stage": "quantize",
        "method": "gptq",
        "variant": "",
        "bits": 4,
        "group_size": 64,
        "model": "tiny",
        "model_revision": "sha256:0123456789abcdef",
        "device": "cpu",
        "host": "here",
        "created": "2026-01-02T03:04:05+00:00",
        "config": {"rounding": {"damp_percent": 0.01}},
        "seconds": {"load": 1.25},
        "versions": {"python": "3.11"},
        "git_commit": "f" * 40,
        "git_dirty": False,
    }
    return Failure(**(fields | changes))
