"""``python -m quantbench doctor``: what works on this machine, and how to get the rest."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from quantbench.arguments import ArgumentParser
from quantbench.doctor import machine, services, software
from quantbench.doctor.finding import Check, Finding
from quantbench.store.secrets import redacted

CHECKS: tuple[Check, ...] = (
    machine.python,
    software.installation,
    software.dependencies,
    machine.torch_build,
    machine.processor,
    machine.memory,
    services.own_cache,
    services.hub,
    services.cached_models,
    services.wandb_login,
    software.optional,
    software.programs,
)
_MAIN_JOB = "python -m quantbench method=awq bits=4"


def main(argv: Sequence[str]) -> int:
    """Print a line for each finding; 1 if the main job cannot run."""
    parser = ArgumentParser(
        prog="quantbench doctor", description="What works on this machine, and how to get the rest."
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    arguments = parser.parse_args(argv)
    found = examine(CHECKS)
    broken = [finding.name for finding in found if finding.required and not finding.there]
    if arguments.json:
        print(json.dumps({"works": not broken, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        print("\n".join(_lines(found)))
        print(f"\nThe main job cannot run: {', '.join(broken)}" if broken else f"\nThe main job can run: {_MAIN_JOB}")
    return 1 if broken else 0


def examine(checks: Sequence[Check]) -> list[Finding]:
    """All findings, without secrets. A check that fails is a finding too, and does not stop the others."""
    return [
        replace(finding, detail=_one_line(finding.detail), remedy=_one_line(finding.remedy))
        for check in checks
        for finding in _guarded(check)
    ]


def _guarded(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:
        yield Finding(check.__name__, False, f"the check failed: {type(error).__name__}: {error}", "report this line")


def _one_line(text: str) -> str:
    return textwrap.shorten(redacted(text), 200, placeholder=" ...")


def _lines(found: Sequence[Finding]) -> list[str]:
    width = max(len(finding.name) for finding in found)
    return [
        f"{'ok' if finding.there else '--'}  {finding.name:<{width}}  {finding.detail}"
        + ("" if finding.there or not finding.remedy else f" -> {finding.remedy}")
        for finding in found
    ]
