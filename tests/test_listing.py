"""``list``: what is printed about the presets is what they compose to."""

import pytest

from quantbench.__main__ import main
from quantbench.config import check_command_line
from quantbench.config.presets import presets

PRESETS = presets()


def listed(capsys) -> dict[str, str]:
    assert main(["list", "method"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    return {line.split()[0]: line for line in lines}


def test_every_preset_has_a_line_with_its_source(capsys):
    lines = listed(capsys)
    assert set(lines) == set(PRESETS)
    assert "arXiv 2210.17323" in lines["gptq"]
    assert "rounding=gptq" in lines["gptq"]


@pytest.mark.parametrize("name", PRESETS)
def test_bits_and_group_printed_are_those_of_the_composed_run(name, capsys):
    format = check_command_line([f"method={name}"], multirun=False)[0].format
    columns = listed(capsys)[name].split()
    if PRESETS[name].choices["rounding"] == "none":
        assert columns[1:3] == ["-", "-"]
    else:
        assert columns[1] == str(format.bits)
        assert columns[2] == ("row" if format.group_size is None else str(format.group_size))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_does(name):
    assert PRESETS[name].summary
