"""How the demo, the tests and the benchmarks start other programs."""

from __future__ import annotations

import shutil
from typing import Literal

__all__ = ["until_parent_dies"]


def until_parent_dies(signal: Literal["TERM", "INT"] = "TERM") -> tuple[str, ...]:
    """The start of a command line whose program the kernel ends when the thread that started it ends.

    Empty where ``setpriv``, a part of util-linux, is missing.

    Args:
        signal: The signal that ends the program.
    """
    return ("setpriv", "--pdeathsig", signal) if shutil.which("setpriv") else ()
