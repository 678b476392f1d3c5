"""A run with training, through the command line: what is stored, and that it packs like any other."""

import pytest

from quantbench.__main__ import main
from quantbench.paths import cache_dir
from quantbench.store.parquet import Store

SMALL = [
    *("evaluation.max_windows=2", "evaluation.tasks=[]", "calibration.num_samples=4", "calibration.seqlen=64"),
    *("training.batch_size=2", "training.lr=1e-3", "bits=2", "group_size=64", "logger=none"),
]


@pytest.mark.parametrize(
    ("training", "options", "steps"),
    [
        ("qat", ["method=qat", "training.epochs=2", "evaluation.execution=packed"], 4),
        ("scales", ["method=gptq", "training=scales"], 2),
    ],
    ids=["qat-packed", "gptq-scales"],
)
def test_a_trained_run_is_recorded_with_its_curve_and_the_bytes_of_its_format(training, options, steps, tmp_path):
    assert main([*SMALL, *options, f"results_dir={tmp_path}"]) == 0
    frame = Store(tmp_path).load()
    (run,) = frame["run_id"].unique()
    first = frame.iloc[0]
    assert first["training"] == training
    assert first["bits_per_weight"] == 2 + (16 + 2) / 64
    assert first["num_samples"] == 4
    assert '"train"' in first["seconds"]
    samples = Store(tmp_path).samples(run)
    curve = samples[samples["metric"] == "train_loss"].sort_values("index")
    assert curve["key"].tolist() == [str(step + 1) for step in range(steps)]
    assert curve["value"].iloc[-1] < curve["value"].iloc[0]
    assert not list((cache_dir() / "training").glob("*"))
