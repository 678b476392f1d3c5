"""The page on the store lists every column as the record describes it, and the page on studies shows a valid one."""

import re
from pathlib import Path

import yaml

import quantbench
from quantbench.store.record import columns
from quantbench.study import definition

DOCS = Path(quantbench.__file__).parent / "docs"


def test_the_columns_are_those_of_the_record():
    table = (DOCS / "store.md").read_text(encoding="utf-8").partition("## Columns of runs.parquet")[2]
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.MULTILINE))
    assert listed == columns()


def test_the_study_shown_is_a_study():
    text = (DOCS / "studies.md").read_text(encoding="utf-8")
    study = definition.parse(yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0]))
    assert study.name == "which-weights"
    assert len(study.sweeps) == 3


def test_every_study_of_the_repository_reads():
    for path in (DOCS.parents[1] / "experiments").glob("*/study.yaml"):
        assert definition.read(path).name == path.parent.name
