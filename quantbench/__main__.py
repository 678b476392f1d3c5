"""``python -m quantbench``: verbs, or ``key=value`` arguments for a run."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from quantbench.errors import InputError, QuantizationError

VERBS = {"list": "quantbench.listing", "table": "quantbench.report.table"}
_ABOUT_HYDRA = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code is 0, 1 for a failed run, 2 for wrong input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in VERBS:
            return int(importlib.import_module(VERBS[arguments[0]]).main(arguments[1:]))
        return _run_jobs(arguments)
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted: nothing of the unfinished run is stored", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run_jobs(arguments: list[str]) -> int:
    """Check the whole command line, then hand it to Hydra, which launches one job or a sweep."""
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from quantbench.config import check_command_line, conf_dir, register, to_run_config

    register()
    failures: list[int] = []

    def job(composed: DictConfig) -> None:
        from quantbench.run import Label, run

        runtime = HydraConfig.get()
        label = Label.of(dict(runtime.runtime.choices), list(runtime.overrides.task))
        try:
            run(to_run_config(composed), label)
        except InputError as error:
            failures.append(_fail(error, 2))
        except (QuantizationError, MemoryError) as error:
            failures.append(_fail(error or "out of memory", 1))

    parsed = get_args_parser().parse_args(arguments)
    if not any(a.split("=")[0] in _ABOUT_HYDRA for a in arguments):
        check_command_line(parsed.overrides, multirun=parsed.multirun, search_path=parsed.config_dir)
        logging.captureWarnings(True)
    _call_hydra(hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job), arguments)
    return max(failures, default=0)


def _call_hydra(entry: Any, arguments: list[str]) -> None:
    """Hydra reads ``sys.argv``."""
    kept = sys.argv
    sys.argv = [kept[0], *arguments]
    try:
        entry()
    finally:
        sys.argv = kept


def _fail(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
