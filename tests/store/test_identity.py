import hashlib
import math
import subprocess
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantbench.store.identity import canonical_json, git_state, machine, run_id, versions

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), _VALUES, max_size=5), st.randoms())
def test_key_order_does_not_change_the_run_id(determinants, random):
    keys = list(determinants)
    random.shuffle(keys)
    assert run_id({key: determinants[key] for key in keys}) == run_id(determinants)


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), (0.0, -0.0), ((1, 2), [1, 2]), (0.1, 0.1000000000000000055)],
    ids=["int-float", "signed-zero", "tuple-list", "same-double"],
)
def test_equal_settings_written_differently_are_one_run(left, right):
    assert run_id({"x": left}) == run_id({"x": right})


@pytest.mark.parametrize(
    ("left", "right"),
    [(0.1, 0.1000000000000001), (True, 1), (None, "None"), ("1", 1), ([1, [2]], [[1], 2])],
    ids=["last-digit", "bool-int", "none-text", "text-int", "nesting"],
)
def test_different_settings_are_different_runs(left, right):
    assert run_id({"x": left}) != run_id({"x": right})


def test_run_id_is_the_hash_of_the_canonical_json():
    text = '{"a":[1,0.5,null,true],"b":"\\u00e9"}'
    assert canonical_json({"b": "é", "a": (1.0, 0.5, None, True)}) == text
    assert run_id({"b": "é", "a": (1.0, 0.5, None, True)}) == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_setting_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        run_id({"x": value})


@pytest.mark.parametrize("value", [object(), {1: 2}, b"x"], ids=["object", "int-key", "bytes"])
def test_a_setting_without_a_canonical_form_is_refused(value):
    with pytest.raises(TypeError):
        run_id({"x": value})


def test_versions_are_those_of_the_installed_distributions():
    found = versions()
    assert found["torch"] == metadata.version("torch")
    assert found["python"].startswith("3.")


def test_machine_names_its_processor_and_counts_its_memory():
    found = machine()
    assert found["cpu"]
    assert int(found["cores"]) >= 1
    assert int(found["memory"]) > 2**28


def _git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_git_state_sees_commit_edits_new_files_and_foreign_folders(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    assert git_state(code) == (None, None)
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "m")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert git_state(code) == (commit, False)
    (tmp_path / "elsewhere.txt").write_text("")
    assert git_state(code) == (commit, False)
    (code / "new.py").write_text("")
    assert git_state(code) == (commit, True)
    (code / "new.py").unlink()
    (code / "a.py").write_text("2")
    assert git_state(code) == (commit, True)
    installed = tmp_path / "env" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "b.py").write_text("")
    assert git_state(installed) == (None, None)
