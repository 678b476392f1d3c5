"""The memory plan against what the tensors of a real walk take."""

import torch

from quantbench.methods.rounding import GPTQ
from quantbench.models.memory import Bytes, plan_memory
from quantbench.models.walk import quantize
from tests.models.test_walk import CPU, load, variant

GIGANTIC = Bytes(2**60, 2**60)


def plan(structure, variants, ids, *, free=GIGANTIC, device=CPU):
    return plan_memory(structure, variants, ids, dtype=torch.float32, device=device, free=free)


def test_a_variant_adds_what_its_result_takes():
    model, structure, ids = load("llama")
    one = variant(GPTQ(), statistics="fp")
    added = plan(structure, [one] * 3, ids).needed.host - plan(structure, [one] * 2, ids).needed.host
    weights = quantize(model, structure, [one], ids, device=CPU)[0].weights.values()
    assert added == sum(w.codes.nbytes + w.scale.nbytes + w.zero_point.nbytes for w in weights)


def test_a_propagating_variant_adds_its_hidden_states():
    _, structure, ids = load("llama")
    own, shared = variant(GPTQ()), variant(GPTQ(), statistics="fp")
    needed = [plan(structure, [shared, other], ids).needed.host for other in (own, shared)]
    assert needed[0] - needed[1] == ids.numel() * 32 * 4


def test_variants_that_do_not_fit_together_are_split_and_none_is_left_out():
    _, structure, ids = load("llama")
    variants = [variant(GPTQ(), statistics="fp")] * 7
    room_for_three = plan(structure, variants[:3], ids).needed
    split = plan(structure, variants, ids, free=room_for_three)
    assert split.parts == [[0, 1, 2], [3, 4, 5], [6]]
    assert split.needed == room_for_three
    assert plan(structure, variants, ids, free=Bytes(0, 0)).parts == [[index] for index in range(7)]
    assert "7 variants in 3 walk(s)" in str(split)


def test_on_an_accelerator_blocks_count_there_and_results_on_the_host():
    _, structure, _ = load("llama")
    one, three = (plan(structure, [variant()] * count, None, device=torch.device("cuda")).needed for count in (1, 3))
    assert one.device == three.device > 0
    assert three.host > one.host
