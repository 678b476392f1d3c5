"""Command-line parsing whose mistakes are one line."""

import argparse
from typing import NoReturn

from quantbench.errors import InputError


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a wrong argument raises InputError instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help shows the usage)")
