"""The error of each quantized linear by itself: as measurements of a run, and as curves over the decoder blocks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantbench.measurement import Measurement, Samples

WEIGHT_ERROR, OUTPUT_ERROR = "weight_error", "output_error"
# Their samples are the layers of one model, which are no sample of anything: no interval, and no test, is made of them.
LAYER_METRICS = (WEIGHT_ERROR, OUTPUT_ERROR)
_TASK = "layers"


@dataclass(frozen=True)
class LayerError:
    """How far the quantized weight Q of a linear is from the weight W [out, in] that was rounded.

    weight: ||Q - W||_F^2 / ||W||_F^2. output: the same of the linear's outputs on the inputs that calibration saw,
    tr((Q - W) H (Q - W)^T) / tr(W H W^T) with H the mean of x x^T; None where these were not looked at. elements: of W.
    """

    weight: float
    output: float | None
    elements: int


def layer_measurements(names: Iterable[str], errors: Mapping[str, LayerError]) -> list[Measurement]:
    """Both errors: the mean over layers weighted by their elements, and a sample a layer in the order of ``names``."""
    ordered = [(name, errors[name]) for name in names if name in errors]
    weights = [(name, error.weight, error.elements) for name, error in ordered]
    outputs = [(name, error.output, error.elements) for name, error in ordered if error.output is not None]
    return [_measurement(metric, of) for metric, of in ((WEIGHT_ERROR, weights), (OUTPUT_ERROR, outputs)) if of]


def _measurement(metric: str, layers: Sequence[tuple[str, float, int]]) -> Measurement:
    keys, values, elements = zip(*layers, strict=True)
    samples = Samples(keys, np.array(values), np.array(elements, dtype=np.float64))
    mean = float(np.average(samples.values, weights=samples.weights))
    return Measurement(metric, _TASK, mean, "fraction", len(keys), baseline=0.0, samples=samples)


def block_curves(keys: Iterable[str], values: Iterable[float], weights: Iterable[float]) -> dict[str, dict[int, float]]:
    """Samples of a layer metric by kind of linear (``self_attn.q_proj``), each over the indices of the blocks.

    The experts of a block are one kind; their value is the mean weighted by ``weights``.
    """
    sums: dict[str, dict[int, tuple[float, float]]] = {}
    for key, value, weight in zip(keys, values, weights, strict=True):
        block, kind = place(key)
        of_kind = sums.setdefault(kind, {})
        total, seen = of_kind.get(block, (0.0, 0.0))
        of_kind[block] = (total + weight * value, seen + weight)
    return {kind: {block: total / seen for block, (total, seen) in of.items()} for kind, of in sums.items()}


def place(key: str) -> tuple[int, str]:
    """``model.layers.3.mlp.experts.7.up_proj``: block 3, mlp.experts.up_proj."""
    parts = key.split(".")
    block = next(index for index, part in enumerate(parts) if part.isdigit())
    return int(parts[block]), ".".join(part for part in parts[block + 1 :] if not part.isdigit())
