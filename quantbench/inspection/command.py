"""``python -m quantbench inspect``: weights and activations of a run, layer by layer."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError, exit_code, say
from quantbench.report.figure import check_formats
from quantbench.report.figures.inspection import draw_all
from quantbench.report.inspection import show
from quantbench.store.files import prepare_folder, reported
from quantbench.store.inspection import Inspection, read, write

if TYPE_CHECKING:
    from quantbench.config import RunConfig
    from quantbench.data.calibration import CalibrationSet
    from quantbench.label import Label
    from quantbench.models.load import LoadedModel

_SAMPLES = 4


def main(argv: Sequence[str]) -> int:
    """Inspect what ``argv`` asks for, or show what is stored; the exit code is 0, 1 for a run that cannot go on, 2."""
    try:
        arguments = _parser().parse_intermixed_args(argv)
        formats = check_formats(arguments.formats)
        if arguments.read is None:
            folder, inspection = _inspected(arguments)
            write(folder, inspection)
        else:
            folder, inspection = _stored(arguments)
        _save(folder, draw_all(inspection, formats))
        show(inspection, top=arguments.top)
        print(f"\nstored           {folder}")
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        say(error)
        return code
    return 0


def _stored(arguments: Namespace) -> tuple[Path, Inspection]:
    if arguments.overrides:
        raise InputError(f"{arguments.overrides[0]}: --read shows what is stored and takes no key=value")
    return Path(arguments.output or arguments.read), read(Path(arguments.read))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="quantbench inspect",
        description="Describe every weight of a model and what flows into it: distribution, outlier channels and "
        "kurtosis before and after the transform, use of the format's code points, and what quantizing each linear "
        "alone costs. Writes a table of all linears and four figures.",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of a run: model=... method=... bits=...")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="(RESULTS_DIR/inspect/RUN_ID)")
    parser.add_argument("--read", metavar="FOLDER", help="show and draw again what is stored there; compute nothing")
    parser.add_argument(
        "--samples",
        type=_count,
        default=_SAMPLES,
        metavar="N",
        help="calibration windows for KL divergence and gradients, 0: neither (%(default)s)",
    )
    parser.add_argument("--top", type=_count, default=10, metavar="N", help="linears to print (%(default)s)")
    parser.add_argument("--formats", default="pdf,png", help="of the figures: pdf, svg, png (%(default)s)")
    return parser


def _count(given: str) -> int:
    if not given.isdigit():
        raise ArgumentTypeError(f"{given}: allowed are 0 and more")
    return int(given)


def _inspected(arguments: Namespace) -> tuple[Path, Inspection]:
    from quantbench.checks import check_model, context_length, pick_device
    from quantbench.config import compose_jobs
    from quantbench.data.calibration import build
    from quantbench.determinants import determinants
    from quantbench.inspection.describe import describe
    from quantbench.models.load import identify, load
    from quantbench.models.statistics_cache import StatisticsCache
    from quantbench.models.structure import find_structure
    from quantbench.store.identity import run_id

    jobs = compose_jobs(arguments.overrides)
    if len(jobs) != 1:
        raise InputError(f"{len(jobs)} runs: inspect looks at one, so a key takes one value")
    ((config, label),) = jobs
    if config.training.trains:
        raise InputError(f"training={label.choices['training']}: inspect trains nothing; allowed is none")
    device, identity = pick_device(config.device), identify(config.model)
    identifier = run_id(determinants(config, label, identity, device.type))
    folder = Path(arguments.output or Path(config.results_dir) / "inspect" / identifier)
    with reported(f"write to {folder}"):
        prepare_folder(folder)
    loaded = load(config.model, config.dtype, identity=identity, device=device)
    structure = find_structure(loaded.model)
    check_model(config, loaded.model, structure)
    calibration = build(config.calibration, loaded.tokenizer, config.seed, max_context=context_length(loaded.model))
    variant, cache = config.variant(), StatisticsCache.of_user()
    options: Any = {"samples": arguments.samples, "device": device, "cache": cache}
    found = describe(loaded.model, structure, variant, calibration.ids, **options)
    subject = _settings(config, label, loaded) | _circumstances(calibration) | {"run_id": identifier}
    subject |= {
        "transformed": found.transformed,
        "samples": min(arguments.samples, len(calibration.ids)),
        "notes": [*loaded.notes, *calibration.notes, *found.notes],
    }
    return folder, Inspection(subject, found.rows)


def _settings(config: "RunConfig", label: "Label", loaded: "LoadedModel") -> dict[str, Any]:
    return {
        "method": label.method,
        "variant": label.variant,
        "choices": dict(label.choices),
        "bits": config.format.bits if config.rounding.quantizes else None,
        "group_size": config.format.group_size,
        "activation_bits": config.activation.nominal_bits,
        "statistics": config.stats,
        "model": loaded.identity.name,
        "model_revision": loaded.identity.revision,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "config": asdict(config),
    }


def _circumstances(calibration: "CalibrationSet") -> dict[str, Any]:
    from quantbench.store.identity import git_state, versions

    commit, dirty = git_state(Path(__file__).parent)
    return {
        "calibration": calibration.name,
        "calibration_hash": calibration.hash,
        "num_samples": len(calibration.ids),
        "seqlen": calibration.ids.shape[1],
        "versions": versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _save(folder: Path, figures: Mapping[str, bytes]) -> None:
    with reported(f"write figures to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in figures.items():
            (folder / name).write_bytes(content)
