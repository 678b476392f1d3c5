"""The model card of an exported model: what it is, how good it is, how it was made, how to load it."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from quantbench.axes import AXES
from quantbench.measurement import Measurement
from quantbench.report.numbers import decimals, fixed, size, text
from quantbench.store.record import as_dict

if TYPE_CHECKING:
    from quantbench.store.record import RunIdentity

_NOTES = 10
_HASH_DIGITS = 16


def card(identity: "RunIdentity", measurements: Sequence[Measurement], *, layout: str, needs: str, loading: str) -> str:
    """README.md of the folder: YAML that the Hub reads, then Markdown.

    layout: how the weights are stored; needs: what a reader must have, in words; loading: Python that loads it.
    """
    facts = as_dict(identity)
    setting = "full precision" if identity.bits is None else f"{identity.method}, {identity.bits} bits"
    sections = [
        _front(identity, layout),
        f"# {PurePath(identity.model).name}: {setting}\n",
        _table(("metric", "on", "full precision", "this model", "95 % interval", "samples"), _results(measurements)),
        f"Perplexity and divergence: protocol `{identity.protocol}` on {identity.corpus} "
        f"(tokens and windows {identity.evaluation_hash[:_HASH_DIGITS]}). Every column of the record is in "
        "`quantbench.json`.\n",
        "## How it was made\n",
        _table(("what", "value"), _made(identity)),
        *[f"- {note}" for note in facts["notes"][:_NOTES]],
        "\n## How to load it\n",
        f"Layout `{layout}`; needs {needs}.\n",
        f"```python\n{loading}```\n",
        "## Versions\n",
        ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + _code(identity) + "\n",
    ]
    return "\n".join(sections)


def _front(identity: "RunIdentity", layout: str) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if not identity.model_revision.startswith("sha256:"):  # a repository on the Hub, not local files
        lines.append(f"base_model: {identity.model}")
    tags = ["quantbench"] if identity.bits is None else ["quantbench", layout.replace("_", "-"), identity.method]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _results(measurements: Sequence[Measurement]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for item in measurements:
        places = decimals(item.value, low=item.ci_low, high=item.ci_high, stderr=item.stderr)
        known = item.ci_low is not None and item.ci_high is not None
        interval = f"{fixed(item.ci_low, places)} to {fixed(item.ci_high, places)}" if known else ""  # type: ignore[arg-type]
        baseline = "" if item.baseline is None else fixed(item.baseline, places)
        rows.append((item.metric, item.task, baseline, fixed(item.value, places), interval, str(item.count)))
    return rows


def _made(identity: "RunIdentity") -> list[tuple[str, str]]:
    made = [
        ("model", f"{identity.model}, revision {identity.model_revision}"),
        ("method", f"{identity.method} {identity.variant}".strip()),
        *((axis, getattr(identity, axis)) for axis in AXES),
        ("bits", text(identity.bits)),
        ("group size", "row" if identity.group_size is None else str(identity.group_size)),
        ("zero-point", "none (symmetric)" if identity.symmetric else "stored"),
        ("bits per weight", f"{identity.bits_per_weight:.4f}, with scales, zero-points and indices"),
        ("size", f"{size(identity.model_bytes)}, {size(identity.quantized_bytes)} of it quantized linears"),
    ]
    if identity.bits is None:
        made = made[:1]
    if identity.calibration is None or identity.calibration_hash is None:
        made.append(("calibration", "none"))
    else:
        amount = f"{identity.num_samples} x {identity.seqlen} tokens, hash {identity.calibration_hash[:_HASH_DIGITS]}"
        made.append(("calibration", f"{identity.calibration}: {amount}, statistics {identity.statistics}"))
        made.append(
            ("contaminated", "yes: calibrated on the corpus it is scored on" if identity.contaminated else "no")
        )
    return [*made, ("seed", str(identity.seed)), ("dtype while scored", identity.dtype), ("run", identity.run_id)]


def _code(identity: "RunIdentity") -> str:
    changed = " with changes" if identity.git_dirty else ""
    return f", commit {identity.git_commit}{changed}" if identity.git_commit else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
