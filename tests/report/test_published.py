import json

import pytest

from quantbench.config import compose_jobs
from quantbench.report.published import main, match, published
from quantbench.report.selection import Query, select
from quantbench.store.parquet import Store
from tests.store import records

_WHOLE = json.dumps({"evaluation": {"max_windows": None, "num_fewshot": None}})
_LLAMA = {"model": "meta-llama/Llama-2-7b-hf", "corpus": "wikitext2", "protocol": "gptq-2048", "config": _WHOLE}


def _ours(tmp_path, **changes):
    store = Store(tmp_path)
    store.write(
        records.identity(**(_LLAMA | {"group_size": 128} | changes)), [records.perplexity(5.7, task="wikitext2")]
    )
    (row,) = select(store.load(), Query((), (), ()))
    return row


def test_every_number_is_complete_and_of_a_known_kind():
    numbers = published()
    assert len(numbers) > 40
    for item in numbers:
        assert item.value > 0
        assert item.checkpoint.count("/") == 1
        assert item.source
        assert item.metric in ("perplexity", "kl_divergence")
        assert item.protocol in ("gptq-2048", "gptq-4096", "lm-eval-word", "llamacpp-512")
        assert (item.method == "fp16") == (item.weight_bits is None)
    keys = [(i.model, i.method, i.setting, i.protocol, i.corpus, i.metric) for i in numbers]
    assert len(set(keys)) == len(keys)


def test_the_same_setting_finds_its_number(tmp_path):
    (found,) = match(_ours(tmp_path), published())
    assert (found.value, found.setting, found.verified) == (5.623, "w4g128 asym", True)


@pytest.mark.parametrize(
    "change",
    [
        {"group_size": 64},
        {"bits": 8},
        {"symmetric": True},
        {"variant": "rounding=hqq"},
        {"protocol": "gptq-4096"},
        {"corpus": "wikitext103"},
        {"model": "meta-llama/Llama-2-13b-hf"},
        {"activation_bits": 8},
        {"method": "hqq"},
        {"config": json.dumps({"evaluation": {"max_windows": 10}})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_setting_finds_none(tmp_path, change):
    assert match(_ours(tmp_path, **change), published()) == []


def recorded(overrides):
    """What a run of these settings records, as far as published numbers are matched with it."""
    ((config, label),) = compose_jobs(overrides)
    quantizes, text = config.rounding.quantizes, config.evaluation
    return {
        "method": label.method,
        "variant": label.variant,
        "bits": config.format.bits if quantizes else None,
        "group_size": config.format.group_size,
        "symmetric": not config.format.stored_zero_point,
        "activation_bits": config.activation.nominal_bits,
        "kv_bits": config.kv_cache.nominal_bits,
        "model": config.model.name,
        "corpus": text.corpus,
        "protocol": text.protocol,
        "metric": "perplexity",
        "config": {"evaluation": {"max_windows": text.max_windows}},
    }


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ("experiment=gptq_llama1", 6.09),
        ("experiment=gptq_llama1 bits=3 group_size=128", 6.61),
        ("experiment=awq_llama2", 5.601),
        ("experiment=awq_llama2 bits=3", 6.243),
        ("experiment=awq_llama2 method=fp16", 5.47),
        ("experiment=omniquant_llama2", 6.092),
        ("experiment=omniquant_llama2_w2", 9.525),
        ("experiment=smoothquant_llama2", 5.589),
        ("experiment=quarot_llama2", 6.10),
        ("experiment=quarot_llama2 method=quarot_rtn", 8.56),
        ("experiment=quarot_llama2 model=llama-2-70b", 3.79),
    ],
)
def test_the_run_of_a_papers_setting_stands_beside_its_number(settings, value):
    (found,) = match(recorded(settings.split()), published())
    assert found.value == value
    assert match(recorded([*settings.split(), "evaluation.max_windows=8"]), published()) == []


def test_ours_stand_beside_theirs_with_the_difference(tmp_path, capsys):
    _ours(tmp_path)
    assert main([str(tmp_path), "--model", "llama-2-7b", "--method", "gptq"]) == 0
    out = capsys.readouterr().out
    line = "| llama-2-7b | gptq | w4g128 asym | wikitext2 gptq-2048 | 5.623 | 5.7 (c4 128x2048, seed 0) | +1.37% | LLMC"
    assert line in out
    assert "| w3g128 asym | wikitext2 gptq-2048 | 6.318 | - | - |" in out
    assert out.endswith("3 published numbers, 1 stored runs beside them; ? not read in its source\n")


def test_numbers_are_listed_without_a_store_and_doubt_is_marked(capsys):
    assert main(["--method", "rtn"]) == 0
    assert "| 5.73? | - | - | AWQ paper table 4 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "llama"], "--model llama: allowed are llama-2-7b, llama-2-13b"),
        (["--method", "magic"], "--method magic: allowed are fp16, gptq"),
        (["/nowhere"], "no results at /nowhere"),
    ],
)
def test_a_wrong_request_is_one_line(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_table_shows_published_numbers_in_a_column(results):
    results.add(records.identity(**_LLAMA, group_size=128), records.perplexity(5.7, task="wikitext2"))
    results.add(records.uncalibrated(method="rtn", **_LLAMA), records.perplexity(5.9, task="wikitext2"))
    assert results.grid("--published") == [
        "method,bits=4,bits=4 published",
        "fp16,10.0,5.47",
        "gptq,5.7,5.623",
        "rtn,5.9,",
    ]
