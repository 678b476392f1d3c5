import json
import math
from dataclasses import fields, replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantbench.measurement import Measurement
from quantbench.store.record import RUN_SCHEMA, RunIdentity, columns, parse_run, run_table
from tests.store import records

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_FLOAT = st.floats(width=64)
_INT = st.integers(-(2**63), 2**63 - 1)


@st.composite
def identities(draw) -> RunIdentity:
    strategies = {str: _TEXT, int: _INT, float: _FLOAT, bool: st.booleans()}
    by_column = {"string": str, "int64": int, "double": float, "bool": bool}
    changes = {}
    for item in fields(RunIdentity):
        column = RUN_SCHEMA.field(item.name)
        value = strategies[by_column[str(column.type)]]
        changes[item.name] = draw(st.none() | value if column.nullable else value)
    for name in ("config", "versions", "seconds", "peak_memory", "notes"):
        changes[name] = json.dumps(draw(st.dictionaries(_TEXT, _TEXT, max_size=3)))
    return RunIdentity(**(changes | {"run_id": "r-1_x"}))


measurements = st.builds(
    Measurement,
    metric=_TEXT,
    task=_TEXT,
    value=_FLOAT,
    unit=_TEXT,
    count=_INT,
    stderr=st.none() | _FLOAT,
    ci_low=st.none() | _FLOAT,
    ci_high=st.none() | _FLOAT,
    baseline=st.none() | _FLOAT,
    higher_is_better=st.booleans(),
)


def _same(left, right) -> bool:
    """Equality in which NaN equals NaN and 0.0 is not -0.0."""
    return repr(left) == repr(right)


@settings(deadline=None, max_examples=50)
@given(identities(), st.lists(measurements, min_size=1, max_size=4, unique_by=lambda item: (item.metric, item.task)))
def test_every_identity_and_measurement_survives_parquet(identity, measured):
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(run_table(identity, measured), sink)
    back, again = parse_run(pq.ParquetFile(pa.BufferReader(sink.getvalue())).read())
    assert _same(back, identity)
    assert _same(again, measured)


def test_every_column_of_the_schema_is_explained_once():
    assert list(columns()) == RUN_SCHEMA.names
    assert all(columns().values())


def test_a_run_id_that_would_leave_the_folder_is_refused():
    with pytest.raises(ValueError, match="run_id"):
        records.identity(run_id="../x")


def test_a_json_column_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match="Expecting"):
        records.identity(seconds="{")


@pytest.mark.parametrize("measured", [[], [records.perplexity(10.0), records.perplexity(11.0)]], ids=["none", "twice"])
def test_a_run_needs_each_measurement_once(measured):
    with pytest.raises(ValueError, match="measurement"):
        run_table(records.identity(), measured)


def test_a_value_that_is_not_finite_is_stored_as_it_is():
    broken = replace(records.perplexity(10.0), value=math.inf, ci_low=None, ci_high=math.nan)
    _, (back,) = parse_run(run_table(records.identity(), [broken]))
    assert (back.value, back.ci_low) == (math.inf, None)
    assert back.ci_high is not None
    assert math.isnan(back.ci_high)
