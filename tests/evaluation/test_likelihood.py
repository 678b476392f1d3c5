"""Scores of every architecture against lm-eval's own HFLM, request by request."""

import random
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from quantbench.evaluation.language_model import SharedPrefixLM
from quantbench.evaluation.likelihood import Request, can_share, lay_out
from quantbench.methods.kv_cache import KIVI, PerToken
from quantbench.models.attention import set_caches_
from quantbench.models.structure import find_structure
from tests.models import tiny


def words(generator: random.Random, count: int) -> str:
    return " ".join(f"w{generator.randrange(tiny.VOCABULARY - 4)}" for _ in range(count))


def choices(seed: int = 0) -> list[Any]:
    """Items as tasks have them: several continuations of a context, shared openings, one token, none before."""
    generator = random.Random(seed)
    opening = words(generator, 9)
    pairs = []
    for length in (1, 4, 11, 17):
        context = f"{opening} {words(generator, length)}"
        pairs += [(context, " " + words(generator, generator.randint(1, 6))) for _ in range(4)]
    pairs += [(words(generator, 3), " " + words(generator, 1)) for _ in range(3)]
    pairs += [(words(generator, 3 + option), " w5 w6 w7") for option in range(2)]
    pairs += [("", words(generator, 5)), ("w1", " w2 w3"), ("w1", " w2 w3 w4"), pairs[0]]
    pairs += [(words(generator, 90), " w8 w9")]  # longer than the context: cut from the left
    generator.shuffle(pairs)
    return [instance("loglikelihood", pair) for pair in pairs]


def instance(kind: Any, arguments: tuple[Any, ...]) -> Any:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def both(model: Any) -> tuple[Any, Any]:
    tokenizer = tiny.tokenizer()
    return SharedPrefixLM(model, tokenizer, batch_size=1), HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)


def greedy_ending(model: Any, context: str, count: int) -> str:
    ids = torch.tensor([tiny.tokenizer()(context)["input_ids"]])
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return "".join(f" {tiny.tokenizer().convert_ids_to_tokens(int(token))}" for token in ids[0, -count:])


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_architecture_scores_as_lm_eval_does_request_by_request(name: str) -> None:
    model = tiny.build(name)
    requests = choices()
    context = "w3 w14 w15 w9 w26 w5"
    requests += [instance("loglikelihood", (context, greedy_ending(model, context, n))) for n in (1, 3)]
    ours, theirs = (lm.loglikelihood(requests) for lm in both(model))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert ours[-1][1], "the greedy ending was not found greedy"


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_supported_architecture_shares_prefixes(name: str) -> None:
    assert can_share(tiny.build(name))


def test_an_architecture_whose_attention_counts_rows_is_scored_without_sharing() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=tiny.VOCABULARY, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0)
    model = BloomForCausalLM(config).eval()
    tiny.randomise_(model)
    assert not can_share(model)  # its position biases are those of the tokens' places in the row
    ours, theirs = (lm.loglikelihood(choices()) for lm in both(model))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt"])
def test_whole_texts_score_as_lm_eval_does(name: str) -> None:
    generator = random.Random(1)
    requests = [instance("loglikelihood_rolling", (words(generator, count),)) for count in (1, 30, 64, 65, 200)]
    ours, theirs = (lm.loglikelihood_rolling(requests) for lm in both(tiny.build(name)))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_generation_is_lm_evals() -> None:
    settings = {"until": ["w7"], "max_gen_toks": 8, "do_sample": False}
    requests = [instance("generate_until", (words(random.Random(seed), 5), settings)) for seed in range(3)]
    ours, theirs = (lm.generate_until(requests) for lm in both(tiny.build("llama")))
    assert ours == theirs
    assert any(ours)


def test_half_precision_weights_are_scored_with_an_fp32_softmax() -> None:
    model = tiny.build("llama").bfloat16()
    ours = SharedPrefixLM(model, tiny.tokenizer(), batch_size=2).loglikelihood(choices())
    witness = HFLM(pretrained=model, tokenizer=tiny.tokenizer(), batch_size=1, softmax_dtype="float32")
    expected = witness.loglikelihood(choices())
    # One rounding of a logit of about 4 is 0.016, and a continuation has up to six.
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected], abs=0.1)


def test_a_request_without_a_continuation_is_refused() -> None:
    with pytest.raises(ValueError, match="2 context and 0 continuation tokens"):
        lay_out([Request([1, 2], [])], max_length=8, hidden=32)


@pytest.mark.parametrize(
    ("cache", "shares"),
    [
        (PerToken(bits=3, group_size=4), True),
        (PerToken(bits=3, residual_length=4), False),  # which tokens are the newest is not the same in two branches
        (KIVI(bits=2, group_size=4, residual_length=4), False),
    ],
    ids=["int3", "int3-window", "kivi2"],
)
@pytest.mark.parametrize("name", ["gemma3", "gpt-neox"])
def test_a_model_with_a_quantized_cache_is_scored_as_request_by_request(name: str, cache: Any, shares: bool) -> None:
    model = tiny.build(name).double()  # so that no code depends on the order of a sum
    ours, _ = (lm.loglikelihood(choices()) for lm in both(model))
    full = [value for value, _ in ours]
    set_caches_(model, {f"{b.name}.{b.attention}": cache for b in find_structure(model).blocks})
    assert can_share(model) == shares
    ours, theirs = (lm.loglikelihood(choices()) for lm in both(model))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [value for value, _ in ours] != pytest.approx(full, abs=1e-2), "the cache must matter"
