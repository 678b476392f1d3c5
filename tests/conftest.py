"""Tests run offline, in one thread a process, and away from the user's caches."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """A cache of the session's own: nothing of the user's is read or written."""
    previous = os.environ.get("QUANTBENCH_CACHE")
    os.environ["QUANTBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if previous is None:
        del os.environ["QUANTBENCH_CACHE"]
    else:
        os.environ["QUANTBENCH_CACHE"] = previous
