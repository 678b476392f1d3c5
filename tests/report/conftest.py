from dataclasses import replace

import pytest

from quantbench.report.table import main
from quantbench.store.parquet import Store


class Results:
    """A results folder to fill and to tabulate."""

    def __init__(self, root, capsys):
        self.store, self.capsys, self.count = Store(root), capsys, 0

    def add(self, identity, *measured):
        self.count += 1
        self.store.write(replace(identity, run_id=f"run-{self.count}"), measured)
        return self

    def table(self, *options) -> tuple[int, str, str]:
        code = main([str(self.store.root), *options])
        out, err = self.capsys.readouterr()
        return code, out, err

    def refusal(self, *options) -> str:
        code, out, err = self.table(*options)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    def grid(self, *options) -> list[str]:
        code, out, err = self.table(*options, "--format", "csv")
        assert code == 0, err
        return out.splitlines()


@pytest.fixture
def results(tmp_path, capsys):
    return Results(tmp_path, capsys)
