"""One run end to end on the embedded model: what is printed, stored, logged, and what survives a crash."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from quantbench.__main__ import main
from quantbench.store.parquet import Store
from tests.store.readback import read_back

SMALL = [
    "evaluation.max_windows=8",
    "evaluation.tasks=[world_facts]",
    "evaluation.limit=20",
    "calibration.num_samples=8",
    "logger=none",
]


def run(*arguments):
    code = main([*SMALL, *arguments])
    assert code == 0


@pytest.fixture(scope="module")
def awq(tmp_path_factory):
    """One small AWQ run, its folder and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "quantbench", *SMALL, "method=awq", "bits=4", "group_size=64"]
    command += ["logger=wandb", "logger.wandb.mode=offline", "results_dir=out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, done


def rows(folder):
    return Store(folder / "out").load()


def test_a_run_stores_one_row_for_each_metric_with_its_whole_identity(awq):
    frame = rows(awq[0])
    assert set(frame.metric) == {
        "perplexity", "perplexity_ratio", "kl_divergence", "top1_agreement", "entropy_floor", "acc", "flips",
        "weight_error", "output_error",
    }  # fmt: skip
    first = frame.iloc[0]
    axes = ["method", "bits", "group_size", "transform", "range", "rounding"]
    assert first[axes].tolist() == ["awq", 4, 64, "awq", "awq_clip", "rtn"]
    assert first.statistics == "fp"
    assert first.model_revision.startswith("sha256:")
    assert len(first.calibration_hash) == 64
    assert first.num_samples == 8
    assert not first.contaminated or "contamination" in first.notes
    assert json.loads(first.versions)["torch"]
    assert set(json.loads(first.seconds)) == {"load", "prepare", "baseline", "calibration", "quantize", "evaluate"}
    assert all(peak["host"] > 10**7 for peak in json.loads(first.peak_memory).values())


def test_bits_per_weight_and_bytes_count_what_is_stored(awq):
    """4-bit codes, and a 16-bit scale and a 4-bit zero-point for every 64 weights; everything else at 16 bits."""
    from importlib import resources

    from safetensors import safe_open

    first = rows(awq[0]).iloc[0]
    assert first.bits_per_weight == pytest.approx(4 + 20 / 64)
    with safe_open(resources.files("quantbench") / "assets" / "world" / "model.safetensors", framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    sizes = {name: shape[0] * (shape[1] if len(shape) > 1 else 1) for name, shape in shapes.items()}
    linear = sum(size for name, size in sizes.items() if name.endswith("_proj.weight"))
    assert first.quantized_bytes == linear * (4 + 20 / 64) / 8
    assert first.model_bytes == first.quantized_bytes + 2 * (sum(sizes.values()) - linear)


def test_the_table_shows_the_stored_numbers(awq):
    folder, done = awq
    frame = rows(folder).set_index("metric")
    assert f"{frame.value['perplexity']:.1f}" in done.stdout or f"{frame.value['perplexity']:.2f}" in done.stdout
    assert f"{frame.bits_per_weight.iloc[0]:.4g}"[:4] in done.stdout
    assert frame.run_id.iloc[0] in done.stdout


def test_parquet_and_offline_wandb_hold_the_same_numbers(awq):
    folder, _ = awq
    config, summary, _ = read_back(folder / "out")
    frame = rows(folder)
    for row in frame.itertuples():
        assert summary[f"{row.metric}/{row.task}"] == row.value
    assert config["bits_per_weight"] == frame.bits_per_weight.iloc[0]


def test_samples_average_to_the_measurements(awq):
    folder, _ = awq
    frame = rows(folder).set_index("metric")
    samples = Store(folder / "out").samples(frame.run_id.iloc[0]).set_index("metric")
    accuracy = samples.loc["acc"]
    assert accuracy.value.mean() == pytest.approx(frame.value["acc"])
    assert accuracy.baseline.mean() == pytest.approx(frame.baseline["acc"])
    nll = samples.loc["perplexity"]
    assert np.exp(np.average(nll.value, weights=nll.weight)) == pytest.approx(frame.value["perplexity"])
    assert np.exp(np.average(nll.baseline, weights=nll.weight)) == pytest.approx(frame.baseline["perplexity"])


def test_errors_of_layers_are_stored_by_the_name_of_the_linear_in_the_order_of_the_model(awq):
    folder, done = awq
    frame = rows(folder).set_index("metric")
    samples = Store(folder / "out").samples(frame.run_id.iloc[0]).set_index("metric")
    kinds = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    for metric in ("weight_error", "output_error"):
        layers = samples.loc[metric]
        assert layers.key.tolist() == [f"model.layers.{block}.{kind}" for block in range(4) for kind in kinds]
        assert np.average(layers.value, weights=layers.weight) == pytest.approx(frame.value[metric])
        assert layers.value.between(1e-5, 0.1).all()
    assert frame.task["weight_error"] == "layers"
    assert done.stdout.count("layer error") == 1


def test_a_stored_run_is_shown_and_not_recomputed(awq, capfd, monkeypatch):
    folder, done = awq
    monkeypatch.chdir(folder)
    file = next((folder / "out" / "runs").glob("*.parquet"))
    written = file.stat().st_mtime_ns
    assert main([*SMALL, "method=awq", "bits=4", "group_size=64", "results_dir=out"]) == 0
    shown = capfd.readouterr().out
    assert "already stored; force=true recomputes it" in shown
    assert file.stat().st_mtime_ns == written
    assert next(line for line in done.stdout.splitlines() if "perplexity" in line) in shown


def test_full_precision_is_one_run_whatever_the_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("method=fp16", "bits=2", "results_dir=out")
    run("method=fp16", "bits=8", "group_size=32", "results_dir=out")
    frame = Store(tmp_path / "out").load()
    assert frame.run_id.nunique() == 1
    assert frame.bits.isna().all()
    assert frame.bits_per_weight.iloc[0] == 16


def test_the_same_run_twice_gives_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = []
    for folder in ("a", "b"):
        run("method=gptq", "bits=3", f"results_dir={folder}")
        values.append(Store(tmp_path / folder).load().set_index("metric").value)
    pd.testing.assert_series_equal(*values)


def test_a_rotated_run_says_so_and_counts_the_untied_head(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("-m", "method=hadamard_rtn", "bits=8", "seed=0,1", "results_dir=out")
    frame = Store(tmp_path / "out").load()
    assert frame.run_id.nunique() == 2, "another seed is another rotation"
    assert all("residual stream of" in notes and "values rotated" in notes for notes in frame.notes)
    ratio = frame[frame.metric == "perplexity_ratio"].value
    assert ratio.nunique() == 2
    assert ratio.max() < 1.02
    run("method=rtn", "bits=8", "results_dir=plain")
    plain = Store(tmp_path / "plain").load()
    assert frame.model_bytes.iloc[0] > plain.model_bytes.iloc[0]


def test_a_sweep_stores_every_run_and_table_compares_them(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run("-m", "method=rtn,gptq", "bits=2,8", "results_dir=out")
    assert Store(tmp_path / "out").load().run_id.nunique() == 4
    capfd.readouterr()
    arguments = ["table", "out", "--rows", "method", "--cols", "bits", "--format", "csv"]
    assert main(arguments) == 0
    table = capfd.readouterr().out
    assert "rtn" in table
    assert "gptq" in table


def test_a_text_seen_in_calibration_is_flagged(tmp_path, monkeypatch):
    from quantbench.data import world

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(world.corpus("test", 120)))
    arguments = ["calibration.corpus=text.txt", "evaluation.corpus=text.txt", "evaluation.tasks=[]"]
    run("method=gptq", "bits=4", "results_dir=out", *arguments)
    assert Store(tmp_path / "out").load().contaminated.all()


@pytest.mark.parametrize("stage", ["evaluate fp", "tasks", "quantize", "evaluate:"])
def test_killed_in_any_stage_leaves_no_row_and_the_next_start_works(stage, tmp_path):
    command = [sys.executable, "-m", "quantbench", *SMALL, "method=gptq", "results_dir=out"]
    environment = os.environ | {"QUANTBENCH_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    seen, deadline = "", time.monotonic() + 300
    assert process.stderr is not None
    while stage not in seen and time.monotonic() < deadline:
        character = process.stderr.read(1)
        assert character, f"ended before {stage}: {seen}"
        seen += character
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "out" / "runs").glob("*.parquet"))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "out").load().run_id.nunique() == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not list((tmp_path / "cache").rglob(".writing-*"))


def test_a_failing_run_of_a_sweep_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("one two three")
    code = main([*SMALL, "-m", "method=gptq", "calibration.corpus=short.txt,world", "results_dir=out"])
    assert code == 2
    assert "short.txt" in capfd.readouterr().err
    assert Store(tmp_path / "out").load().run_id.nunique() == 1


def test_a_run_scored_with_bfloat16_products_says_so_where_tables_compare_dtypes(tmp_path):
    run("method=rtn", "evaluation.compute=bfloat16", "evaluation.tasks=[]", f"results_dir={tmp_path}")
    assert set(Store(tmp_path).load().dtype) == {"float32, products bfloat16"}


def test_keys_and_values_are_quantized_where_weights_stay(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    latency = ["evaluation.latency_batches=[1]", "evaluation.latency_prompt=40", "evaluation.latency_tokens=2"]
    run("-m", "rounding=none", "kv_cache=int2,kivi2", *latency, "results_dir=out")
    frame = Store(tmp_path / "out").load().set_index(["kv_cache", "metric"])
    assert (set(frame.method), set(frame.bits), set(frame.kv_bits)) == ({"kv2", "kivi2"}, {16}, {2})
    assert set(frame.bits_per_weight) == {16}
    assert frame.value["int2", "kv_bits_per_element"] == pytest.approx(
        2 + (2 * 16 + 8) / 64
    )  # scales, a byte of zero-points
    assert frame.task["kivi2", "kv_bits_per_element"] == "256_tokens"
    for cache in ("int2", "kivi2"):
        assert frame.value[cache, "perplexity_ratio"] != 1
        assert frame.value[cache, "kl_divergence"] > 1e-4
    assert "weights in full precision, kv_cache=int2" in capfd.readouterr().out
