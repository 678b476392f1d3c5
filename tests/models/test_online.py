"""Online rotations: what a linear reads is rotated while the model runs, and its weight undoes it."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from quantbench.formats import IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.transform import BlockHadamard, Hadamard, RandomRotation
from quantbench.methods.transform.hadamard_matrix import hadamard_matrix
from quantbench.methods.transform.rotation import ChannelRotation
from quantbench.methods.variant import Variant
from quantbench.models.online import OnlineRotation, rotate_input_
from quantbench.models.rewrite import rewrite_
from quantbench.models.rotate import rotate_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny
from tests.models.test_rotate import SUPPORTED, difference, load, logits

ROTATIONS = [
    Hadamard(online=True),
    Hadamard(online=True, heads=False, block_size=8),
    RandomRotation(online=True),
]


@pytest.mark.parametrize("rotation", ROTATIONS, ids=["hadamard", "hadamard-blocks-of-8", "random"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_logits_names_and_roles_stay(name, rotation):
    model, structure = load(name)
    expected = logits(model)
    notes = rotate_(model, structure, rotation)
    assert difference(logits(model), expected) < 1e-5
    assert {note.split(":")[0] for note in notes if "online" in note} >= {"online before mlp_out"}
    rotated = find_structure(model)
    assert rotated.linears == structure.linears
    for before, after in zip(structure.blocks, rotated.blocks, strict=True):
        assert [(site.name, site.role) for site in after.sites] == [(site.name, site.role) for site in before.sites]
        outs = [site for site in after.sites if site.role in ("attention_out", "mlp_out")]
        assert all(site.fold is None for site in outs), "a scale cannot pass a rotation"
        linears = [after.module.get_submodule(name) for site in outs for name in site.linears]
        assert all(isinstance(linear.rotation, OnlineRotation) for linear in linears)


# A model that cannot be rotated (a norm of what is added to the stream, too narrow embeddings) has inputs all the same.
@pytest.mark.parametrize("block_size", [8, 32])
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_inputs_of_every_linear_are_rotated_in_blocks_and_sites_stay(name, block_size):
    model, structure = load(name)
    expected = logits(model)
    (note,) = rewrite_(model, structure, BlockHadamard(block_size=block_size))
    assert f"32 channels in blocks of {block_size}" in note
    assert difference(logits(model), expected) < 1e-5
    rotated = find_structure(model)
    for before, after in zip(structure.blocks, rotated.blocks, strict=True):
        assert [(s.name, s.linears, s.role) for s in after.sites] == [(s.name, s.linears, s.role) for s in before.sites]


def test_blocks_that_do_not_divide_a_size_are_the_largest_that_do():
    assert [BlockHadamard(block_size=128).block(size) for size in (128, 576, 1536, 30)] == [128, 96, 128, 2]
    with pytest.raises(ValueError, match=r"transform\.block_size=92: allowed"):
        BlockHadamard(block_size=92)


def seen_by(model: nn.Module, name: str) -> Tensor:
    """Inputs [..., in] of a linear, as calibration and input quantizers see them."""
    inputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    logits(model)
    handle.remove()
    return inputs[0]


def test_inputs_are_those_of_the_papers_hadamard_matrices():
    """Before down_proj H x; before o_proj values of all heads times H (heads) kron H (head) (QuaRot, section 4)."""
    down, out = (f"model.layers.0.{name}" for name in ("mlp.down_proj", "self_attn.o_proj"))
    model, structure = load("llama")
    before = seen_by(model, down), seen_by(model, out)
    rotate_(model, structure, Hadamard(random_signs=False, online=True))
    both = torch.kron(hadamard_matrix(4), hadamard_matrix(8)).float() / 32**0.5
    expected = before[0] @ hadamard_matrix(48).float() / 48**0.5
    torch.testing.assert_close(seen_by(model, down), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen_by(model, out), before[1] @ both, rtol=1e-4, atol=1e-5)


def test_heads_without_a_hadamard_matrix_are_mixed_channel_by_channel():
    """SmolLM2 has 9 heads of 64: there is no such matrix of order 9, but one of order 576 (here 3 heads of 8: 24)."""
    model, structure = load("llama", num_attention_heads=3, num_key_value_heads=1, hidden_size=24, head_dim=8)
    expected = logits(model)
    notes = rotate_(model, structure, Hadamard(online=True))
    assert difference(logits(model), expected) < 1e-5
    assert "online before attention_out: size=24, block=24" in notes


@pytest.mark.parametrize(("order", "stride"), [(36, 1), (576, 1), (1536, 1), (96, 8), (512, 64)])
def test_online_matrices_are_orthogonal(order, stride):
    size = order // stride
    rotation = Hadamard(online=True).online_rotation(size, torch.Generator(), "cpu")
    module = OnlineRotation(ChannelRotation(order, core=rotation.core, block=rotation.block, stride=stride))
    matrix = module(torch.eye(order, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order, dtype=torch.float64), rtol=0, atol=1e-6)
    assert int((matrix != 0).sum()) == size * size * stride


def test_11008_channels_are_rotated_without_a_matrix_of_that_size():
    """Llama-2-7B's MLP: 32 times Paley's 344; a row of H is its image of a unit vector."""
    rotation = Hadamard(online=True).online_rotation(11008, torch.Generator(), "cpu")
    assert rotation.core is not None
    assert rotation.core.shape == (344, 344)
    rows = torch.tensor([0, 1, 5000, 11007])
    units = torch.zeros(4, 11008, dtype=torch.float64).index_put_((torch.arange(4), rows), torch.tensor(1.0).double())
    torch.testing.assert_close(rotation(units), hadamard_matrix(11008)[rows] / 11008**0.5, rtol=0, atol=1e-12)


@pytest.mark.parametrize("execution", ["fake", "packed"])
def test_a_model_with_online_rotations_is_quantized_applied_and_restored(execution):
    model, structure = load("llama")
    rotation = Hadamard(online=True)
    rotate_(model, structure, rotation)
    expected, structure = logits(model), find_structure(model)
    variant = Variant(IntFormat(bits=8, group_size=16), MinMax(), rotation, GPTQ(), Uniform(), "propagate")
    ids = torch.randint(3, tiny.VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(1))
    result = quantize(model, structure, [variant], ids, device=torch.device("cpu"))[0]
    undo = apply_result(model, result, execution=execution)
    assert 0 < (logits(model) - expected).square().mean() / expected.var() < 1e-3
    undo()
    assert torch.equal(logits(model), expected)


def test_linears_of_one_tensor_share_its_rotation_and_nothing_is_kept():
    rotation = OnlineRotation(Hadamard().rotation(16, 16, torch.Generator(), "cpu"))
    first, second = nn.Linear(16, 4).requires_grad_(False), nn.Linear(16, 4).requires_grad_(False)
    x, weight = torch.randn(3, 16), second.weight.clone()
    for linear in (first, second):
        rotate_input_(linear, rotation)
    shared = rotation(x)
    assert rotation(x) is shared
    assert rotation(x.clone()) is not shared
    torch.testing.assert_close(second(x), x @ weight.T + second.bias)
    copied = copy.deepcopy(nn.ModuleList([first, second]))
    assert copied[0].rotation is copied[1].rotation is not rotation
    del x
    gc.collect()
    assert rotation._last._output is None
