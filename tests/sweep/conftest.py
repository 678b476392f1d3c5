"""A tiny model and texts on disk, and sweeps of runs on them in this process."""

from dataclasses import replace
from functools import cache

import pytest

from quantbench.config import compose_jobs
from tests.evaluation.tiny import make_model, make_text, make_tokenizer

SETTINGS = ["evaluation.protocol=gptq-32", "evaluation.max_windows=3", "evaluation.tasks=[]", "logger=none"]
SETTINGS += ["calibration.num_samples=4", "calibration.seqlen=16", "calibration.sampling=random_windows"]
SETTINGS += ["group_size=16", "device=cpu"]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A model directory and two texts, as settings."""
    folder = tmp_path_factory.mktemp("local")
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    (folder / "text.txt").write_text(make_text(400))
    (folder / "other.txt").write_text(make_text(400, seed=1))
    texts = [f"evaluation.corpus={folder / 'text.txt'}", f"calibration.corpus={folder / 'other.txt'}"]
    return [*SETTINGS, "model=local", f"model.path={folder / 'model'}", "evaluation=local", "calibration=local", *texts]


@pytest.fixture(scope="session")
def composed(files):
    """Composes the runs of a sweep; the same sweep once."""
    return cache(lambda *sweep: compose_jobs([*files, *sweep]))


@pytest.fixture
def runs(composed, tmp_path):
    """The runs of a sweep, whose store is in the folder given, below the test's own."""

    def of(*sweep, store="."):
        return [(replace(config, results_dir=str(tmp_path / store)), label) for config, label in composed(*sweep)]

    return of
