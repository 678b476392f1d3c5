import math
from importlib import resources
from pathlib import Path

import pytest

from quantbench.data.world import SPLITS, corpus, floor
from quantbench.data.world.generator import default_world
from quantbench.data.world.tokenizer import make_tokenizer, vocabulary
from quantbench.errors import InputError

ASSETS = Path(str(resources.files("quantbench"))) / "assets" / "world"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ASSETS)


def test_splits_share_no_document_with_each_other_or_with_training_text():
    texts = {split: corpus(split, 300) for split in SPLITS}
    texts["train"] = [document.text for document in default_world().take("train", 300)]
    everything = [text for split in texts.values() for text in split]
    assert len(set(everything)) == len(everything) == 300 * len(texts)


def test_corpus_is_deterministic_and_prefixes_agree():
    assert corpus("test", 20) == corpus("test", 30)[:20]


def test_default_test_text_is_large_enough_for_a_paired_comparison():
    assert 64_000 <= len(floor("test")) <= 100_000


@pytest.mark.parametrize("call", [lambda: corpus("train"), lambda: floor("tests"), lambda: corpus("test", 0)])
def test_unknown_split_or_no_documents_is_an_input_error(call):
    with pytest.raises(InputError, match="allowed"):
        call()


def test_floor_has_one_value_per_token_of_the_joined_text(tokenizer):
    ids = tokenizer("\n\n".join(corpus("test", 50)))["input_ids"]
    nll = floor("test", 50)
    assert len(ids) == len(nll)
    documents = default_world().take("test", 50)
    ends = [nll[index] for index, token in enumerate(ids) if token == tokenizer.eos_token_id]
    assert ends == [document.end_nll for document in documents[:-1]]
    assert math.fsum(nll) == pytest.approx(sum(map(sum, (d.nll for d in documents))) + math.fsum(ends))


@pytest.mark.parametrize("split", SPLITS)
def test_decoding_the_tokens_gives_the_text_back(tokenizer, split):
    text = "\n\n".join(corpus(split, 40))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_stored_tokenizer_is_the_one_the_world_defines(tokenizer):
    assert tokenizer.get_vocab() == vocabulary(default_world().lexicon)
    fresh = make_tokenizer(default_world().lexicon)
    assert tokenizer.backend_tokenizer.to_str() == fresh.backend_tokenizer.to_str()


def test_punctuation_needs_no_space_and_foreign_words_are_unknown(tokenizer):
    assert tokenizer("12 plus 7 is 19, minus 4.\nNow") == tokenizer("12 plus 7 is 19 , minus 4 . Now")
    assert tokenizer("quantization")["input_ids"] == [tokenizer.unk_token_id]


def test_embedded_model_fits_the_limits_that_every_format_needs():
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig

    file = ASSETS / "model.safetensors"
    assert file.stat().st_size <= 16 * 2**20
    config = AutoConfig.from_pretrained(ASSETS)
    assert config.model_type == "llama"
    assert config.tie_word_embeddings
    assert config.max_position_embeddings >= 512
    with safe_open(file, "pt") as tensors:
        weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    assert all(weight.dtype == torch.bfloat16 and weight.isfinite().all() for weight in weights.values())
    matrices = [weight for weight in weights.values() if weight.ndim == 2]
    assert len(matrices) == 7 * config.num_hidden_layers + 1
    assert all(width % 256 == 0 for weight in matrices for width in weight.shape)


def test_model_perplexity_is_above_the_floor_and_near_it(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(ASSETS, dtype=torch.float32)
    ids = torch.tensor(tokenizer("\n\n".join(corpus("test", 200)))["input_ids"])
    lowest = torch.tensor(floor("test", 200))
    windows = ids[: len(ids) // 256 * 256].view(-1, 256)
    with torch.no_grad():
        log_probs = model(windows).logits.log_softmax(-1)
    nll = -log_probs[:, :-1].gather(-1, windows[:, 1:, None]).mean().item()
    expected = lowest[: windows.numel()].view(-1, 256)[:, 1:].mean().item()
    assert expected < nll < expected + 0.5
