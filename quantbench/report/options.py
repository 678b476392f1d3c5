"""Arguments that every verb over stored runs takes: field names and conditions."""

from collections.abc import Sequence

from quantbench.errors import InputError


def fields(joined: str, option: str) -> tuple[str, ...]:
    """Field names joined by commas.

    Raises:
        InputError: an empty name.
    """
    names = tuple(name.strip() for name in joined.split(","))
    if not all(names):
        raise InputError(f"{option} {joined!r}: give field names joined by commas")
    return names


def conditions(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``FIELD=VALUE`` arguments as pairs.

    Raises:
        InputError: an argument without =.
    """
    for condition in given:
        if "=" not in condition:
            raise InputError(f"--where {condition}: give FIELD=VALUE")
    pairs = (condition.partition("=") for condition in given)
    return tuple((field.strip(), value.strip()) for field, _, value in pairs)
