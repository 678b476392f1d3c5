"""Speed of reading and writing: which numbers there are, and that they add up."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quantbench.curves import DIAGNOSTICS
from quantbench.errors import InputError
from quantbench.evaluation import breakdown, latency
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.energy import energy_counter
from quantbench.evaluation.evaluate import prepare
from quantbench.timings import shares
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


def test_numbers_are_tokens_over_seconds(clock, monkeypatch):
    monkeypatch.setattr(latency, "_layers", lambda model, ids, count: {"rest": 1.0 + count})
    one, three = latency.speeds(clock, CONFIG)
    layers = {"prefill_layers": {"rest": 1.0}, "decode_layers": {"rest": 5.0}}
    assert one == latency.Speed(1, prefill=1.0, first_token=8.0, decode=1.0, peak_bytes=None, **layers)
    assert three == latency.Speed(3, prefill=3.0, first_token=8.0, decode=3.0, peak_bytes=None, **layers)


def test_energy_is_that_between_readings_over_tokens(clock, monkeypatch):
    joules = iter(range(0, 10**6, 2))  # each reading is two joules later
    monkeypatch.setattr(latency, "energy_counter", lambda device: lambda: next(joules))
    speed = latency.speeds(clock, CONFIG)[1]
    assert speed.prefill_energy == 2 / (3 * 8)
    assert speed.decode_energy == 2 / (3 * 4)


@torch.no_grad()
def test_time_is_split_between_the_kinds_of_linears_and_the_rest(monkeypatch):
    model, now = make_model(), [0.0]
    monkeypatch.setattr(breakdown.time, "perf_counter", lambda: now[0])
    cost = {"q_proj": 1.0, "down_proj": 4.0, "lm_head": 8.0, "embed_tokens": 16.0}
    for name, module in model.named_modules():
        if (kind := name.rsplit(".", 1)[-1]) in cost:
            module.register_forward_pre_hook(lambda *_, seconds=cost[kind]: now.__setitem__(0, now[0] + seconds))
    ids, blocks = torch.zeros(2, 8, dtype=torch.long), model.config.num_hidden_layers
    once = latency._layers(model, ids, 0)
    assert {kind: once[kind] for kind in ("q_proj", "k_proj", "down_proj", "lm_head", "rest")} == {
        "q_proj": blocks, "k_proj": 0, "down_proj": 4 * blocks, "lm_head": 8, "rest": 16,
    }  # fmt: skip
    assert latency._layers(model, ids, 3) == once  # a pass that writes a token costs the same here
    assert all(not m._forward_hooks for m in model.modules())


def test_quantized_layers_are_told_apart_by_their_names_too():
    found = dict(breakdown._linears(nn.ModuleDict({"0": nn.ModuleDict({"up_proj": Outer()})})))
    assert list(found) == ["up_proj"]


class Outer(nn.Module):
    """A layer that holds another one, and is no ``nn.Linear``."""

    in_features = out_features = 3

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)


class NVML:
    """What of NVIDIA's library is used, for one GPU; without ``energy`` it does not count."""

    class NVMLError(Exception):
        pass

    def __init__(self, energy):
        self.energy = energy

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-1234"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        assert handle == "handle"
        if self.energy is None:
            raise self.NVMLError("Not Supported")
        return self.energy


@pytest.mark.parametrize(("energy", "joules"), [(2500, 2.5), (None, None)])
def test_a_gpu_is_asked_in_millijoules_by_its_own_number(energy, joules, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", NVML(energy))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    counter = energy_counter(torch.device("cuda"))
    assert (counter and counter()) == joules


def test_there_is_no_energy_on_a_processor_or_without_the_library(monkeypatch):
    assert energy_counter(torch.device("cpu")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counter(torch.device("cuda")) is None


def test_each_number_is_a_measurement_beside_full_precision():
    speed = latency.Speed(4, 100.0, 0.5, 20.0, 1000, 0.1, 0.2, decode_layers={"q_proj": 3.0, "rest": 1.0})
    full = latency.Speed(4, 50.0, 1.0, 10.0, 4000, 0.3, 0.4, decode_layers={"q_proj": 6.0, "rest": 1.5})
    found = {item.metric: item for item in latency.speed_measurements([speed], [full])}
    assert {name: (item.value, item.baseline, item.higher_is_better) for name, item in found.items()} == {
        "prefill_speed": (100.0, 50.0, True),
        "time_to_first_token": (0.5, 1.0, False),
        "decode_speed": (20.0, 10.0, True),
        "peak_device_memory": (1000, 4000, False),
        "prefill_energy": (0.1, 0.3, False),
        "decode_energy": (0.2, 0.4, False),
        "decode_time": (4.0, 7.5, False),
    }
    samples = found["decode_time"].samples
    assert (samples.keys, samples.values.tolist(), samples.baseline.tolist()) == (
        ("q_proj", "rest"), [3.0, 1.0], [6.0, 1.5],
    )  # fmt: skip
    assert shares(found["decode_time"]) == "q_proj 75 %, rest 25 %"
    assert "decode_time" in DIAGNOSTICS
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
