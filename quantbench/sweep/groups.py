"""Which runs of a sweep go together."""

from collections.abc import Sequence

from quantbench.job import Job


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Runs of one reference, one basis and at most one calibration set: one walk over the blocks serves a group.

    One model after the other, its rotated copies last, since they cost loading it again. A run that calibrates on
    nothing joins whichever group of its model and basis comes first.
    """
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.calibration_key is None):  # stable: calibrated ones found groups
        own = (job.reference_key, job.basis_key, job.calibration_key)
        joined = next((key for key in groups if key[:2] == own[:2]), own)
        groups.setdefault(joined if job.calibration_key is None else own, []).append(job)
    models = list(dict.fromkeys(job.reference_key for job in jobs))
    order = sorted(groups, key=lambda key: (models.index(key[0]), key[1] is not None))  # type: ignore[arg-type]
    return [sorted(groups[key], key=list(jobs).index) for key in order]
