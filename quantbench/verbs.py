"""The verbs of ``python -m quantbench``: each a module with ``main(arguments) -> exit code``."""

VERBS = {
    "bench": "quantbench.bench",
    "cache": "quantbench.caches",
    "compact": "quantbench.store.command",
    "compare": "quantbench.report.compare",
    "doctor": "quantbench.doctor",
    "figure": "quantbench.report.figure",
    "inspect": "quantbench.inspection.command",
    "list": "quantbench.listing",
    "published": "quantbench.report.published",
    "report": "quantbench.report.page",
    "status": "quantbench.study.status",
    "study": "quantbench.study.command",
    "table": "quantbench.report.table",
    "wandb-sync": "quantbench.syncing",
}
