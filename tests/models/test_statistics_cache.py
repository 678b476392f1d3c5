"""The statistics cache: walks with it give what walks without it give, to the last bit, and save the forward passes."""

import logging
import os
import threading

import pytest
import torch

from quantbench.errors import InputError
from quantbench.methods.range import AWQClip
from quantbench.methods.rounding import GPTAQ, GPTQ, RTN, AutoRound
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import AWQ
from quantbench.models import passes as block_passes
from quantbench.models import walk
from quantbench.models.statistics_cache import PrefixKeys, StatisticsCache
from quantbench.models.walk import quantize_each
from tests.models.test_walk import CPU, load, variant

MODELS = ("llama", "qwen3-moe")
FP = [variant(GPTQ(), statistics="fp", bits=3), variant(RTN(), range_=AWQClip(), statistics="fp")]
MIXED = [
    variant(GPTQ(act_order=True), statistics="fp"),
    variant(transform=AWQ(n_grid=3), statistics="fp"),
    variant(AutoRound(iterations=2, batch_size=2), statistics="fp"),
    variant(GPTAQ(), statistics="propagate"),
]


def cache_in(folder, limit=10**9):
    return StatisticsCache(folder, limit=limit)


def walked(loaded, variants, cache=None):
    model, structure, ids = loaded
    return quantize_each(model, structure, variants, ids, device=CPU, cache=cache)


def assert_equal(results, expected):
    for result, other in zip(results, expected, strict=True):
        assert not isinstance(result, Exception), result
        assert result.weights.keys() == other.weights.keys()
        for name, weight in result.weights.items():
            assert torch.equal(weight.dequantize(), other.weights[name].dequantize()), name
        assert all(torch.equal(value, other.parameters[name]) for name, value in result.parameters.items())
        assert result.notes == other.notes


@pytest.fixture
def passes(monkeypatch):
    """Counts the forward passes of blocks."""
    counted, run_block = [], block_passes.run_block
    monkeypatch.setattr(block_passes, "run_block", lambda *arguments: (counted.append(1), run_block(*arguments))[1])
    return counted


@pytest.mark.parametrize("name", MODELS)
def test_a_second_walk_with_other_settings_runs_no_block_and_gives_the_same_bits(name, tmp_path, passes):
    loaded, cache = load(name), cache_in(tmp_path)
    assert_equal(walked(loaded, FP[:1], cache), walked(loaded, FP[:1]))
    assert passes
    others = [variant(GPTQ(), statistics="fp", bits=2), FP[1]]
    expected = walked(loaded, others)
    passes.clear()
    assert_equal(walked(loaded, others, cache), expected)
    assert not passes


def test_variants_that_need_more_than_statistics_still_run_and_give_the_same_bits(tmp_path, passes):
    loaded, cache = load("llama"), cache_in(tmp_path)
    expected = walked(loaded, MIXED)
    walked(loaded, FP, cache)
    passes.clear()
    assert_equal(walked(loaded, MIXED, cache), expected)
    assert passes
    assert_equal(walked(loaded, MIXED[:1] + MIXED[2:], cache), expected[:1] + expected[2:])


@pytest.mark.parametrize("lost", [[0], [1], [0, 1]])
def test_blocks_whose_statistics_were_evicted_are_run_again(lost, tmp_path):
    loaded, cache = load("llama"), cache_in(tmp_path)
    expected = walked(loaded, FP, cache)
    model, structure, ids = loaded
    keys = PrefixKeys(model, structure, ids, batch=walk.BATCH_TOKENS, device=CPU)
    files = [tmp_path / f"{keys.of(block)}.stats" for block in structure.blocks]
    for index in lost:
        files[index].unlink()
    assert_equal(walked(loaded, FP, cache), expected)
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_entry_is_reported_and_collected_again(damage, tmp_path, caplog):
    loaded, cache = load("llama"), cache_in(tmp_path)
    expected = walked(loaded, FP, cache)
    file = sorted(tmp_path.iterdir())[0]
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.write_bytes({"cut": whole[:middle], "bit": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert_equal(walked(loaded, FP, cache), expected)
    assert f"{file} are damaged" in caplog.text
    assert file.read_bytes() == whole


def keys_of(loaded, **changes):
    model, structure, ids = loaded
    keys = PrefixKeys(model, structure, changes.get("ids", ids), batch=changes.get("batch", 4096), device=CPU)
    return [keys.of(block) for block in structure.blocks]


def test_names_follow_from_the_tokens_their_batches_and_the_weights_up_to_the_block():
    loaded = load("llama")
    model, structure, ids = loaded
    before = keys_of(loaded)
    assert keys_of(load("llama")) == before
    other = ids.clone()
    other[0, 0] += 1
    assert not set(keys_of(loaded, ids=other)) & set(before)
    assert not set(keys_of(loaded, batch=8)) & set(before)
    with torch.no_grad():
        next(structure.blocks[-1].module.parameters()).view(-1)[0] += 1
    after = keys_of(loaded)
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] += 1
    assert not set(keys_of(loaded)) & {*before, *after}


def statistics(columns=300):
    stats = SiteStats.empty(columns)
    stats.update(torch.randn(500, columns, generator=torch.Generator().manual_seed(columns)))
    return {"site": stats}


@pytest.mark.parametrize("columns", [1, 255, 256, 300])
def test_statistics_come_back_as_they_were(columns, tmp_path):
    stats, cache = statistics(columns), cache_in(tmp_path)
    cache.write("a", stats)
    read = cache.read("a", CPU)["site"]
    for name in ("gram", "absmax", "abs_sum"):
        assert torch.equal(getattr(read, name), getattr(stats["site"], name))
    assert (read.count, read.dropped) == (500, 0)


def test_what_was_read_longest_ago_is_removed_first(tmp_path):
    stats = statistics()
    cache_in(tmp_path).write("size", stats)
    size = (tmp_path / "size.stats").stat().st_size
    cache = cache_in(tmp_path, limit=3 * size)
    for age, key in enumerate(("size", "b", "c")):
        cache.write(key, stats)
        os.utime(tmp_path / f"{key}.stats", (1000 + age, 1000 + age))
    assert cache.read("size", CPU) is not None  # used just now
    cache.write("d", stats)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["c", "d", "size"]


def test_concurrent_writers_and_readers_see_whole_entries_alone(tmp_path, caplog):
    stats, caches = statistics(), [cache_in(tmp_path, limit=400_000) for _ in range(4)]

    def work(cache, start):
        for round_ in range(40):
            key = f"{(start + round_) % 5}"
            read = cache.read(key, CPU)
            assert read is None or torch.equal(read["site"].gram, stats["site"].gram)
            cache.write(key, stats)

    threads = [threading.Thread(target=work, args=(cache, index)) for index, cache in enumerate(caches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not caplog.records
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache_in(tmp_path / "file" / "folder").write("a", statistics())
    assert "statistics are not cached" in caplog.text


def test_the_user_decides_how_large_it_may_grow(monkeypatch):
    monkeypatch.setenv("QUANTBENCH_STATISTICS_GB", "0.5")
    assert StatisticsCache.of_user().limit == 5 * 10**8
    monkeypatch.setenv("QUANTBENCH_STATISTICS_GB", "0")
    assert StatisticsCache.of_user() is None
    monkeypatch.setenv("QUANTBENCH_STATISTICS_GB", "much")
    with pytest.raises(InputError, match="QUANTBENCH_STATISTICS_GB=much: allowed is a number of gigabytes"):
        StatisticsCache.of_user()
