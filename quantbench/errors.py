"""The exceptions whose message is all the user needs to see."""


class InputError(ValueError):
    """Wrong input, described in one line: what was wrong and what is allowed. The command exits with code 2."""


class QuantizationError(RuntimeError):
    """A run that cannot go on (NaN in the weights, a Hessian beyond repair), in one line. Exits with code 1."""


class JobFailedError(Exception):
    """A job of a sweep failed and has said why; carries the exit code through any launcher."""
