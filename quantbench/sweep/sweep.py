"""A sweep in one process: runs that are stored are shown, the others done group by group."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from tqdm import tqdm

from quantbench.config.schema import RunConfig
from quantbench.errors import InputError, say
from quantbench.job import Job, plan_job
from quantbench.label import Label
from quantbench.recording import Recorded, show_stored
from quantbench.run import Outcomes, do, run_together
from quantbench.session import Session
from quantbench.sweep.groups import grouped
from quantbench.sweep.timing import TimeLeft

_LOG = logging.getLogger(__name__)

Outcome = Recorded | Exception
_Key = tuple[str, ...]


def run_sweep(runs: Sequence[tuple[RunConfig, Label]], session: Session) -> list[Outcome]:
    """Do all runs of a sweep; the record or the error of each, in their order. An error stops no other run.

    Equal runs (full precision at 3 and at 4 bits) are done once. Errors and progress go to stderr as they come.
    """
    outcomes: dict[int, Outcome] = {}
    jobs: dict[int, Job] = {}
    for index, (config, label) in enumerate(runs):
        try:
            jobs[index] = plan_job(config, label, session)
        except InputError as error:
            outcomes[index] = error
            say(error)
    done = _done({job.key: job for job in jobs.values()}, refused=len(outcomes), session=session)
    return [outcomes[index] if index in outcomes else done[jobs[index].key] for index in range(len(runs))]


def _done(jobs: dict[_Key, Job], *, refused: int, session: Session) -> dict[_Key, Outcome]:
    """What became of every job, by its key."""
    done: dict[_Key, Outcome] = {key: _attempt(show_stored, job) for key, job in jobs.items() if job.is_done}
    missing = [job for key, job in jobs.items() if key not in done]
    _LOG.info("sweep of %d runs: %d stored, %d to do", len(jobs) + refused, len(done), len(missing))
    groups = grouped(missing)
    time_left = TimeLeft([len(group) for group in groups])
    for number, group in enumerate(groups):
        titles = ", ".join(job.title for job in group)
        _LOG.info("group %d of %d, %d runs on %s: %s", number + 1, len(groups), len(group), group[0].model.name, titles)
        for job, outcome in _claimed(group, session):
            done[job.key] = outcome
            if isinstance(outcome, Exception):
                say(outcome)
            _report(job, outcome, len(done), len(jobs), time_left.finished(number))
    for job in [job for job in missing if job.key not in done]:  # other processes were at these; most are stored now
        done[job.key] = _attempt(partial(do, session=session), job)
        _report(job, done[job.key], len(done), len(jobs), None)
    _say_what_next(done, jobs)
    return done


def _say_what_next(done: dict[_Key, Outcome], jobs: dict[_Key, Job]) -> None:
    """Where to look at what a sweep gave; a single run, or none that is stored, has nothing to compare."""
    stored = [jobs[key] for key, outcome in done.items() if isinstance(outcome, Recorded)]
    folders = dict.fromkeys(job.config.results_dir for job in stored)
    for folder in folders if len(stored) > 1 else ():
        _LOG.info("to compare them: python -m quantbench report %s -o report.html (or table, figure, compare)", folder)


def _report(job: Job, outcome: Outcome, number: int, total: int, seconds: float | None) -> None:
    state = "failed" if isinstance(outcome, Exception) else "stored"
    left = f", about {tqdm.format_interval(seconds)} left" if seconds else ""
    _LOG.info("run %d of %d %s: %s%s", number, total, state, job.title, left)


def _claimed(group: list[Job], session: Session) -> Outcomes:
    """Do those that no other process is computing; none of them is waited for while others may wait for ours."""
    with ExitStack() as claims:
        mine = []
        for job in group:
            try:
                owner = job.store.claims.take(job.identifier)
            except InputError as error:
                yield job, error
                continue
            if owner is None:
                claims.callback(job.store.claims.release, job.identifier)
                mine.append(job)
        for job in [job for job in mine if job.is_done]:  # by another process, since we last looked
            yield job, _attempt(show_stored, job)
            mine.remove(job)
        if mine:
            for job, outcome in run_together(mine, session):
                job.store.claims.release(job.identifier)
                yield job, outcome


def _attempt(act: Callable[[Job], Recorded], job: Job) -> Outcome:
    try:
        return act(job)
    except Exception as error:
        say(error)
        return error
