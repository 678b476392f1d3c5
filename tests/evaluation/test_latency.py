"""Speed of reading and writing: which numbers there are, and that they add up."""

import pytest
import torch

from quantbench.errors import InputError
from quantbench.evaluation import latency
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.evaluate import prepare
from tests.evaluation.tiny import make_model, make_tokenizer

CONFIG = Evaluation(protocol="gptq-32", corpus="world", latency_batches=[1, 3], latency_prompt=8, latency_tokens=4)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a model drives: a second for each token of a sequence that it reads."""
    now = [0.0]
    monkeypatch.setattr(latency, "_now", lambda device: now[0])
    model = make_model()
    forward = model.forward

    def timed(*args, **kwargs):
        now[0] += kwargs["input_ids"].shape[1]
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", timed)
    return model


def test_numbers_are_tokens_over_seconds(clock):
    one, three = latency.speeds(clock, CONFIG)
    assert one == latency.Speed(1, prefill=1.0, first_token=8.0, decode=1.0, peak_bytes=None)
    assert three == latency.Speed(3, prefill=3.0, first_token=8.0, decode=3.0, peak_bytes=None)


def test_each_number_is_a_measurement_beside_full_precision():
    speed, full = latency.Speed(4, 100.0, 0.5, 20.0, 1000), latency.Speed(4, 50.0, 1.0, 10.0, 4000)
    found = {item.metric: item for item in latency.speed_measurements([speed], [full])}
    assert {name: (item.value, item.baseline, item.higher_is_better) for name, item in found.items()} == {
        "prefill_speed": (100.0, 50.0, True),
        "time_to_first_token": (0.5, 1.0, False),
        "decode_speed": (20.0, 10.0, True),
        "peak_device_memory": (1000, 4000, False),
    }
    assert {item.task for item in found.values()} == {"batch_4"}
    assert all(item.baseline is None for item in latency.speed_measurements([speed], None))


@torch.no_grad()
def test_decoding_reads_the_cache_and_not_the_prompt_again(monkeypatch):
    model, lengths = make_model(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: lengths.append(tuple(k["input_ids"].shape)) or forward(*a, **k)
    )
    latency._generate(model, torch.zeros(2, 8, dtype=torch.long), 3)
    assert lengths == [(2, 8), (2, 1), (2, 1), (2, 1)]


def test_a_prompt_beyond_the_context_is_refused(tmp_path):
    config = Evaluation(protocol="gptq-32", corpus="world", latency_batches=[1], latency_prompt=60, latency_tokens=8)
    with pytest.raises(InputError, match=r"latency_prompt=60 and 8 tokens more: the model's context has 64"):
        prepare(config, make_tokenizer(), max_context=64, cache_dir=tmp_path)


@pytest.mark.parametrize("wrong", [{"latency_batches": [2, 2]}, {"latency_batches": [0]}, {"latency_tokens": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"evaluation.{next(iter(wrong))}="):
        Evaluation(**wrong)
