"""What the page knows: every run's identity and values, and the samples that pair two runs."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quantbench.curves import DIAGNOSTICS
from quantbench.errors import InputError
from quantbench.report.numbers import decimals, fixed, rounded, text, total_seconds
from quantbench.report.selection import Query, Row, in_windows, is_diagnostic, is_reference, select, value_of
from quantbench.store.record import RunIdentity, columns

if TYPE_CHECKING:
    import pandas as pd

    from quantbench.store.parquet import Store

# Samples worth their bytes: those that a paired difference of these metrics is computed from.
_PAIRED_IN_WINDOWS = ("perplexity", "kl_divergence", "top1_agreement")
_JSON = ("versions", "seconds", "peak_memory", "notes")
# In the order of the table; those on which all runs agree are said once, above it.
_FIELDS = (
    *("model", "method", "variant", "format", "bits", "group_size", "symmetric", "transform", "rounding", "range"),
    *("allocation", "activation", "activation_bits", "kv_cache", "kv_bits", "training"),
    *("statistics", "calibration", "num_samples", "seqlen", "seed", "protocol", "corpus"),
    *("dtype", "device"),
)
_ALWAYS = ("method", "bits")
_FOLDED = (
    *("symmetric", "range", "allocation", "activation", "activation_bits", "kv_cache", "kv_bits", "training"),
    *("statistics", "calibration", "num_samples", "seqlen"),
    *("corpus", "device"),
)


def page_data(frame: "pd.DataFrame", store: "Store | None") -> dict[str, Any]:
    """Everything for the page's program, ready for JSON. store: where samples are; None: there are none."""
    runs: dict[str, list[Row]] = {}
    for row in select(frame, Query((), (), ())):
        runs.setdefault(row["run_id"], []).append(row)
    first = [rows[0] for rows in runs.values()]
    varying = [field for field in _FIELDS if field in _ALWAYS or len({text(row[field]) for row in first}) > 1]
    metrics = sorted({(row["metric"], row["task"]) for rows in runs.values() for row in rows}, key=_metric_order)
    pool = _SamplePool(store)
    return {
        "columns": columns(),
        "constant": [[field, text(first[0][field])] for field in _FIELDS if field not in varying],
        "fields": [{"field": field, "shown": field not in _FOLDED} for field in varying],
        "metrics": [{"metric": metric, "task": task, "shown": _is_shown(metric, metrics)} for metric, task in metrics],
        "runs": [_run(rows, varying, metrics, pool) for rows in runs.values()],
        "samples": pool.sets,
    }


def _metric_order(key: tuple[str, str]) -> tuple[int, str, str]:
    first = ("perplexity", "perplexity_ratio", "kl_divergence", "acc")
    return first.index(key[0]) if key[0] in first else len(first), *key


def _is_shown(metric: str, metrics: Sequence[tuple[str, str]]) -> bool:
    """Whether a metric has a column from the start; the others are a click away."""
    few = len([name for name, _ in metrics if name not in DIAGNOSTICS]) <= 4
    return metric in ("perplexity", "perplexity_ratio", "kl_divergence", "acc") or (few and metric not in DIAGNOSTICS)


def _run(
    rows: Sequence[Row], fields: Sequence[str], metrics: Sequence[tuple[str, str]], pool: "_SamplePool"
) -> dict[str, Any]:
    row = rows[0]
    identity = {name: _parsed(name, row[name]) for name in RunIdentity.__dataclass_fields__}
    return {
        "id": row["run_id"],
        "reference": is_reference(row),
        "identity": identity,
        "fields": [[_plain(row[field]), text(row[field])] for field in fields],
        "bits_per_weight": row["bits_per_weight"],
        "megabytes": row["model_bytes"] / 1e6,
        "seconds": total_seconds(row["seconds"]),
        "values": {metrics.index((row["metric"], row["task"])): _value(row) for row in rows},
        "samples": pool.add(rows),
    }


def _parsed(name: str, value: Any) -> Any:
    return json.loads(value) if name in _JSON else _plain(value)


def _value(row: Row) -> dict[str, Any]:
    low, high, value = row["ci_low"], row["ci_high"], row["value"]
    places = decimals(value, low=low, high=high, stderr=row["stderr"])
    interval = "" if low is None or high is None else f"{fixed(low, places)} to {fixed(high, places)}"
    return {
        "value": _plain(value),
        "text": rounded(value, low=low, high=high, stderr=row["stderr"]),
        "interval": interval,
        "baseline": _plain(row["baseline"]),
        "count": row["count"],
        "unit": row["unit"],
        "higher": row["higher_is_better"],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that JSON lacks as text, which JavaScript's Number() reads."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.item() if isinstance(value, np.generic) else value


class _SamplePool:
    """Samples of all runs; keys and weights, which comparable runs share, are kept once for each set."""

    def __init__(self, store: "Store | None") -> None:
        self.sets: list[dict[str, Any]] = []
        self._known: dict[tuple[Any, ...], int] = {}
        self._store = store

    def add(self, rows: Sequence[Row]) -> dict[int, str]:
        """A run's samples by the number of their set, in base64: little-endian float64, of answers a bit each."""
        if self._store is None:
            return {}
        try:
            frame = self._store.samples(rows[0]["run_id"])
        except InputError:
            return {}  # the page shows the run all the same; what it cannot do is pair it
        found = {}
        by_measure = dict(tuple(frame.groupby(["metric", "task"], sort=False)))
        for row in rows:
            samples = by_measure.get((row["metric"], row["task"]))
            if samples is not None and _is_paired(row, samples):
                values = samples["value"].to_numpy()
                found[self._set(row, samples)] = _base64(values) if in_windows(row) else _bits(values)
        return found

    def _set(self, row: Row, samples: "pd.DataFrame") -> int:
        """Runs share a set where a difference on it is one of the methods: same text, model, dtype and shots."""
        serial = in_windows(row)
        setting = row["evaluation_hash"] if serial else value_of(row, "evaluation.num_fewshot")
        weights = samples["weight"].to_numpy()
        key = (
            *(row[field] for field in ("metric", "task", "model", "model_revision", "dtype")),
            *(setting, tuple(samples["key"]), weights.tobytes()),
        )
        if key not in self._known:
            self._known[key] = len(self.sets)
            self.sets.append(
                {
                    "metric": row["metric"],
                    "task": row["task"],
                    "count": len(weights),
                    **({"weights": _base64(weights)} if serial else {"answers": True}),
                }
            )
        return self._known[key]


def _is_paired(row: Row, samples: "pd.DataFrame") -> bool:
    if in_windows(row):
        return row["metric"] in _PAIRED_IN_WINDOWS
    if is_diagnostic(row):
        return False
    return row["metric"] != "flips" and bool(samples["value"].isin((0.0, 1.0)).all())


def _base64(values: Any) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f8").tobytes()).decode("ascii")


def _bits(answers: Any) -> str:
    return base64.b64encode(np.packbits(np.asarray(answers, dtype=bool)).tobytes()).decode("ascii")
