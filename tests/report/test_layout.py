import json
from html.parser import HTMLParser

import pytest

from tests.report import sampled
from tests.store import records


@pytest.fixture
def methods(results):
    results.add(records.full_precision(), records.perplexity(10.0))
    for method, bits, value, size in (("gptq", 4, 10.4, 900), ("awq", 4, 10.6, 800), ("gptq", 3, 12.0, 700)):
        identity = records.identity(method=method, bits=bits, bits_per_weight=bits + 0.5, model_bytes=size * 2**20)
        results.add(identity, records.perplexity(value))
    return results


@pytest.mark.parametrize(
    ("options", "order"),
    [
        (["--sort", "value"], ["fp16", "gptq", "awq"]),
        (["--sort", "value:down"], ["fp16", "awq", "gptq"]),
        (["--sort", "model_bytes"], ["fp16", "awq", "gptq"]),
        (["--sort", "method:down"], ["fp16", "gptq", "awq"]),
    ],
    ids=" ".join,
)
def test_rows_are_sorted_by_a_field_or_by_value_below_full_precision(methods, options, order):
    assert [line.split(",")[0] for line in methods.grid("--where", "bits=4", *options)[1:]] == order


def test_higher_is_better_sorts_the_highest_first(results):
    results.add(records.identity(), sampled.accuracy(range(0, 50)))
    results.add(records.identity(method="awq"), sampled.accuracy(range(0, 20)))
    assert [line.split(",")[0] for line in results.grid("--metric", "acc", "--sort", "value")] == [
        "method",
        "fp16",
        "awq",
        "gptq",
    ]


def test_groups_head_their_rows(methods):
    assert methods.grid("--group", "bits", "--cols", "task") == [
        "group,method,text",
        "full precision,fp16,10.0",
        "bits=3,gptq,12.0",
        "bits=4,awq,10.6",
        "bits=4,gptq,10.4",
    ]


def test_facts_stand_once_in_a_row_or_beside_each_number_where_they_differ(methods):
    header, *rows = methods.grid("--where", "bits=4", "--with", "bits_per_weight,model_bytes")
    assert header == "method,bits/weight,model size,bits=4"
    assert rows[1] == "awq,4.5,838860800,10.6"
    header, *rows = methods.grid("--with", "bits_per_weight")
    assert header == "method,bits=3,bits=3 bits/weight,bits=4,bits=4 bits/weight"
    assert rows[2] == "gptq,12.0,3.5,10.4,4.5"
    assert "800.0 MiB" in methods.table("--where", "bits=4", "--with", "model_bytes")[1]
    assert "unknown field 'bpw'" in methods.refusal("--with", "bpw")
    assert "unknown field 'sizes'" in methods.refusal("--sort", "sizes:down")


def test_full_precision_known_from_a_baseline_alone_has_no_facts_of_the_quantized_run(results):
    results.add(records.identity(), records.perplexity(10.4))
    assert results.grid("--with", "bits_per_weight,model_bytes")[1] == "fp16,,,10.0"


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def test_html_is_well_formed_and_cannot_be_broken_out_of(methods):
    methods.add(records.identity(method="<b>&x"), records.perplexity(11.0))
    _, out, _ = methods.table("--group", "bits", "--cols", "task", "--format", "html")
    reader = _Reader()
    reader.feed(out)
    assert reader.open == []
    assert "<b>&x" in reader.text
    assert "<th scope='rowgroup' colspan='2'>bits=4</th>" in out
    assert "<strong>10.40</strong>" in out


def test_statistics_modes_are_not_mixed_unless_told(results):
    results.add(records.identity(), records.perplexity(10.4))
    results.add(records.identity(method="awq", statistics="fp"), records.perplexity(10.6))
    results.add(records.uncalibrated(method="rtn"), records.perplexity(10.8))
    assert "would mix statistics: fp, propagate; choose one (--where statistics=fp,none)" in results.refusal()
    assert results.grid("--where", "statistics=fp,none")[1:] == ["fp16,10.0", "awq,10.6", "rtn,10.8"]
    _, out, _ = results.table("--mix", "statistics")
    assert out.partition("\n")[0].endswith("; mixes statistics, as asked: fp, propagate")
    assert "\nstatistics: fp (awq); propagate (gptq)\n" in out
    assert results.table("--cols", "bits,statistics")[0] == 0


def test_a_mixed_protocol_is_refused_or_told_in_the_caption(results):
    results.add(records.identity(), records.perplexity(10.4))
    results.add(records.uncalibrated(method="rtn", protocol="llamacpp-512"), records.perplexity(10.8))
    assert "(add protocol to --rows or --cols, or to --mix to allow it)" in results.refusal()
    _, out, _ = results.table("--mix", "protocol")
    assert "; mixes protocol, as asked: gptq-512, llamacpp-512\n" in out
    assert "; protocol gptq-512;" not in out


def test_footnotes_name_the_fields_that_decide_and_no_more(results):
    for bits in (2, 3, 4):
        for method, samples in (("gptq", 128), ("awq", 32), ("autoround", 128)):
            results.add(
                records.identity(method=method, bits=bits, num_samples=samples), records.perplexity(10.0 + bits)
            )
    _, out, _ = results.table("--rows", "method,bits", "--cols", "task")
    assert "\ncalibration: c4 128x2048 (autoround, gptq); c4 32x2048 (awq)\n" in out


def test_a_footnote_of_many_names_only_the_exceptions(results):
    for index in range(9):
        config = json.dumps({"rounding": {"damp_percent": 0.01}, "evaluation": {"num_fewshot": None}})
        samples = 32 if index == 4 else 128
        identity = records.identity(method=f"m{index}", num_samples=samples, config=config)
        results.add(identity, records.perplexity(10.0 + index))
    assert "\ncalibration: c4 32x2048 (m4); c4 128x2048 (all others)\n" in results.table()[1]
