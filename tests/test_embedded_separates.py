"""The embedded model separates methods as a real model does (the bands that its card states)."""

import pytest

from quantbench.config import check_command_line
from quantbench.evaluation.evaluate import baseline, measure, prepare
from quantbench.methods.variant import Variant
from quantbench.models.load import load
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize

CASES = [("rtn", 8), ("rtn", 4), ("rtn", 3), ("rtn", 2), ("gptq", 3), ("awq", 3)]
SETTING = ["group_size=64", "evaluation.tasks=[]", "evaluation.divergence=false", "evaluation.max_windows=120"]


def configured(*overrides):
    return check_command_line([*SETTING, *overrides], multirun=False)[0]


@pytest.fixture(scope="module")
def ratios(tmp_path_factory):
    """Perplexity over full precision's, with the paired 95 % interval, for each method and bits."""
    import torch

    from quantbench.data.calibration import build

    cache = tmp_path_factory.mktemp("cache")
    cases = {(m, b): configured(f"method={m}", f"bits={b}") for m, b in CASES}
    config = configured()
    loaded = load(config.model, config.dtype)
    prepared = prepare(config.evaluation, loaded.tokenizer, max_context=512, cache_dir=cache)
    base = baseline(prepared, loaded.model, identity={"name": "embedded"}, cache_dir=cache)
    variants = [Variant(c.format, c.range, c.transform, c.rounding, c.allocation, c.stats) for c in cases.values()]
    ids = build(config.calibration, loaded.tokenizer, 0).ids[:32]
    results = quantize(loaded.model, find_structure(loaded.model), variants, ids, device=torch.device("cpu"))
    found = {}
    for case, result in zip(cases, results, strict=True):
        undo = apply_result(loaded.model, result)
        measurements = {m.metric: m for m in measure(prepared, base, loaded.model)}
        undo()
        found[case] = measurements["perplexity_ratio"]
        found[case, "nll"] = measurements["perplexity"].samples
    return found


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(8, 0.998, 1.002), (4, 1.005, 1.08), (3, 1.03, 1.60), (2, 1.40, 1e9)]
)
def test_rtn_g64_costs_what_it_costs_a_real_model(ratios, bits, low, high):
    assert low <= ratios["rtn", bits].value <= high


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_better_methods_beat_rtn_at_3_bits_beyond_the_paired_interval(ratios, method):
    from quantbench.statistics import paired_difference

    rtn, better = ratios[("rtn", 3), "nll"], ratios[(method, 3), "nll"]
    assert rtn.keys == better.keys
    assert paired_difference(better.values, rtn.values, rtn.weights).high < 0
