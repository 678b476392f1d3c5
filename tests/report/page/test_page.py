import json
import re

import numpy as np
import pytest
from scipy import stats

from quantbench.measurement import Measurement
from quantbench.report.page import main
from quantbench.report.page.build import embedded, make_page
from quantbench.statistics import answer_changes, paired_difference
from quantbench.statistics.series import mean_error
from tests.report import sampled
from tests.report.browser import CHROMIUM, Browser
from tests.report.figures.conftest import Runs, kl, ratio
from tests.store import records

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
_HOSTILE = "</script><img src=x onerror=document.title='broken'>&$title"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four quantized runs and full precision; one has a name that would end the script, one has no KL."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    settings = ("gptq", 4, 0.05), ("rtn", 4, 0.1), ("gptq", 3, 0.3), (_HOSTILE, 3, 0.9)
    for index, (method, bits, shift) in enumerate(settings):
        value = float(np.exp(shift))
        measured = [sampled.perplexity(shift, noise=index), ratio(value, value - 0.01, value + 0.01)]
        measured.append(sampled.accuracy(range(5, 20 + 10 * index)))
        if (method, bits) != ("gptq", 3):
            measured.append(kl(shift))
        identity = records.identity(method=method, bits=bits, bits_per_weight=bits + 0.25, rounding="rtn")
        runs.add(identity, *measured)
    runs.add(records.full_precision(), sampled.perplexity(0.0, spread=0.0))
    return runs.store


@pytest.fixture(scope="module")
def written(store):
    path = store.root / "report.html"
    assert main([str(store.root), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, written):
    browser.open(written)
    assert browser.errors == []
    return browser


_SHOWN = "[...document.querySelectorAll('#runs tbody tr')].filter((row) => !row.hidden).map((row) => row.dataset.run)"


def _click_column(page, title: str) -> None:
    page.run(f"[...document.querySelectorAll('#runs thead button')].find((b) => b.textContent === {title!r}).click()")


def _filter(page, words: str) -> list[str]:
    page.run(f"box = document.getElementById('filter'); box.value = {words!r}; box.dispatchEvent(new Event('input'))")
    return page.run(_SHOWN)


def test_page_names_no_other_resource(written):
    content = written.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", content)
    assert "http" not in re.sub(r'"data">.*?</script>|data:image[^"]*|http-equiv', "", content, flags=re.S)


def test_errors_of_layers_have_a_figure_and_a_folded_column_and_are_not_paired(tmp_path):
    runs = Runs(tmp_path)
    for index, method in enumerate(("gptq", "rtn")):
        measured = [sampled.perplexity(0.1 * index, noise=index), *sampled.layers(0.0 if index else 1.0)]
        runs.add(records.identity(method=method, bits=4), *measured)
    content = make_page(tmp_path)
    data = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', content, flags=re.S)[1])
    shown = {metric["metric"]: metric["shown"] for metric in data["metrics"]}
    assert shown == {"perplexity": True, "weight_error": False, "output_error": False}
    assert [samples["metric"] for samples in data["samples"]] == ["perplexity"]
    for metric in ("weight_error", "output_error"):
        assert (
            f"<b>Error of each kind of linear against block, a line for each method, {metric}, 4 bits.</b>" in content
        )


def test_data_cannot_end_its_script_element():
    text = embedded({"name": _HOSTILE + "<!--"})
    assert "<" not in text
    assert json.loads(text)["name"] == _HOSTILE + "<!--"


def test_wrong_input_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), "-o", str(tmp_path / "a.html")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no results at")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_same_store_gives_the_same_page(store, written):
    assert make_page(store.root) == written.read_text()


@needs_chromium
def test_page_loads_offline_with_every_run_and_figure(page):
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert len(page.run(_SHOWN)) == 5
    assert page.run("document.title").startswith("quantbench: ")
    widths = page.run("[...document.querySelectorAll('figure img')].map((image) => image.naturalWidth)")
    assert len(widths) >= 3
    assert all(widths)


@needs_chromium
def test_columns_sort_both_ways_and_missing_values_stay_last(page):
    _click_column(page, "perplexity, text")
    assert page.run(_SHOWN) == ["run-005", "run-001", "run-002", "run-003", "run-004"]
    assert page.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    _click_column(page, "perplexity, text")
    assert page.run(_SHOWN) == ["run-004", "run-003", "run-002", "run-001", "run-005"]
    for expected in (["run-001", "run-002", "run-004"], ["run-004", "run-002", "run-001"]):
        _click_column(page, "kl_divergence, text")
        assert page.run(_SHOWN)[:3] == expected
        assert set(page.run(_SHOWN)[3:]) == {"run-003", "run-005"}


@needs_chromium
def test_filter_keeps_runs_with_all_words_and_values(page):
    assert _filter(page, "method=gptq") == ["run-001", "run-003"]
    assert _filter(page, "method=gptq,rtn bits=4") == ["run-001", "run-002"]
    assert _filter(page, "onerror") == ["run-004"]
    assert page.run("document.getElementById('count').textContent") == "1 of 5"
    assert len(_filter(page, "")) == 5


@needs_chromium
def test_a_runs_name_opens_all_that_is_recorded_and_nothing_in_it_is_markup(page):
    page.run("document.querySelector('tr[data-run=run-004] button.name').click()")
    assert page.run("document.getElementById('identity').open")
    text = page.run("document.getElementById('identity').textContent")
    for recorded in (_HOSTILE, "damp_percent", "2 dead columns in block 0", "calibration_hash", "f" * 40):
        assert recorded in text
    assert page.run("document.querySelectorAll('img:not(figure img)').length") == 0
    assert page.run("document.title") != "broken"


@needs_chromium
def test_two_ticked_runs_are_compared_on_their_common_samples(page, store):
    for run in ("run-003", "run-002", "run-001"):  # a third tick replaces the first
        page.run(f"document.querySelector('tr[data-run={run}] input').click()")
    page.run("document.getElementById('compare').click()")
    lines = page.run(
        "[...document.querySelectorAll('#difference-body table')].map((table) => [...table.rows].map((row) =>"
        " [...row.cells].map((cell) => cell.textContent)))"
    )
    found = {line[0]: line[1:] for line in lines[0]}
    assert "rtn" in found["metric"][0]
    assert "gptq" in found["metric"][1]
    a, b = (dict(tuple(store.samples(run).groupby("metric"))) for run in ("run-002", "run-001"))
    change = answer_changes(a["acc"]["value"], b["acc"]["value"])
    words, p = found["acc, facts"][2:]
    assert f"{change.changed} of 200 answers differ, {change.better} for A and {change.worse} for B" in words
    assert float(p.removeprefix("p ")) == pytest.approx(change.p_value, rel=0.05)
    shown = float(re.match(r"ratio ([\d.]+)", found["perplexity, text"][2])[1])
    expected = paired_difference(a["perplexity"]["value"], b["perplexity"]["value"], a["perplexity"]["weight"])
    assert shown == pytest.approx(expected.ratio, rel=1e-3)
    assert found["kl_divergence, text"][2] == "no samples in common are kept here"
    assert ["method", "rtn", "gptq"] in lines[1]


@needs_chromium
@pytest.mark.parametrize(("count", "serial"), [(2, True), (5, True), (10, True), (40, True), (40, False), (200, True)])
def test_browser_finds_the_standard_error_that_python_finds(page, count, serial):
    generator = np.random.default_rng(count)
    a = np.cumsum(generator.normal(0, 0.1, count)) * 0.3 + 2
    b, weights = a + generator.normal(0.02, 0.05, count), generator.integers(100, 512, count).astype(float)
    expected = paired_difference(a, b, weights, serial=serial)
    given = ", ".join(json.dumps(part.tolist()) for part in (a, b, weights))
    found = page.run(f"pairedDifference({given}, {json.dumps(serial)})")
    assert found["estimate"] == pytest.approx(expected.estimate, rel=1e-9)
    assert found["stderr"] == pytest.approx(expected.stderr, rel=1e-9)
    linear = expected.estimate + weights * (a - b - expected.estimate) / weights.mean()
    degrees = float(mean_error(linear, serial=serial and count >= 8).effective) - 1
    interval = stats.t.interval(0.95, degrees, loc=expected.estimate, scale=expected.stderr)
    assert (found["low"], found["high"]) == pytest.approx(interval, rel=1e-8)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(expected.estimate) / expected.stderr, degrees), rel=1e-6)


@needs_chromium
def test_equal_runs_differ_by_nothing_and_a_broken_one_has_no_interval(page):
    assert page.run("pairedDifference([1, 2], [1, 2], [1, 1], true).p") == 1
    assert page.run("pairedDifference([1, NaN], [1, 2], [1, 1], true).low") is None


@needs_chromium
@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 0), (5, 5), (12, 4), (150, 190)])
def test_browser_has_the_exact_mcnemar_test(page, better, worse):
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert page.run(f"mcnemar({better}, {worse})") == pytest.approx(expected, rel=1e-9)


@needs_chromium
def test_values_that_are_no_numbers_are_shown_and_sorted_last(browser, tmp_path):
    runs = Runs(tmp_path)
    for method, value in (("broken", float("nan")), ("far", float("inf")), ("fine", 12.0)):
        runs.add(records.identity(method=method), Measurement("perplexity", "text", value, "ppl", 3))
    (tmp_path / "a.html").write_text(make_page(tmp_path))
    browser.open(tmp_path / "a.html")
    _click_column(browser, "perplexity, text")
    assert browser.run(_SHOWN) == ["run-003", "run-002", "run-001"]
    assert browser.errors == []
