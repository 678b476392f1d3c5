"""Ledgers: running totals by plus, minus and times, between 0 and 99."""

from functools import cache

from quantbench.data.world.lexicon import LARGEST_NUMBER, OPERATIONS
from quantbench.data.world.writer import END, Choices, Writer, scaled

_CONTINUE = Choices({",": 0.75, ".": 0.25})
_FEWEST_TOTALS = 3
_END = 0.2
_LARGEST_OPERAND = 30
_LARGEST_FACTOR = 5
_STARTS = {str(number): 1.0 for number in range(1, 61)}
_START = Choices(_STARTS)
_START_OR_END = Choices({**scaled(_STARTS, 1 - _END), END: _END})


def apply(total: int, operation: str, operand: int) -> int:
    """The next total."""
    return {"plus": total + operand, "minus": total - operand, "times": total * operand}[operation]


@cache
def _operands(total: int, operation: str) -> dict[str, float]:
    """Operands that keep the total between 0 and 99, the small ones more often."""
    numbers = range(2, _LARGEST_FACTOR + 1) if operation == "times" else range(1, _LARGEST_OPERAND + 1)
    return {str(n): 1 / (n + 5) for n in numbers if 0 <= apply(total, operation, n) <= LARGEST_NUMBER}


@cache
def _operand_choices(total: int, operation: str) -> Choices:
    return Choices(_operands(total, operation))


@cache
def _operation_choices(total: int) -> Choices:
    weights = dict(zip(OPERATIONS, (0.45, 0.45, 0.1), strict=True))
    return Choices({operation: weight for operation, weight in weights.items() if _operands(total, operation)})


def write_ledger(writer: Writer) -> None:
    """Totals such as ``12 plus 7 is 19 , minus 4 is 15 .`` until the document ends."""
    count = 0
    while (start := writer.pick(_START if count < _FEWEST_TOTALS else _START_OR_END)) != END:
        total, after = int(start), ","
        while after == ",":
            operation = writer.pick(_operation_choices(total))
            total = apply(total, operation, int(writer.pick(_operand_choices(total, operation))))
            writer.say("is", str(total))
            after = writer.pick(_CONTINUE)
        count += 1
