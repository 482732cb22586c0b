"""Processes of a pod whose supervisor was killed: it can no longer end what the model has started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["kill_processes_at_home"]


def kill_processes_at_home(home: Path) -> None:
    """Kill this user's processes whose environment has this ``HOME``, which only one pod's processes have."""
    entry = b"HOME=" + os.fsencode(home)
    for name in os.listdir("/proc"):  # noqa: PTH208  names are enough
        if not name.isdecimal():
            continue
        with suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123  most of them cannot be opened
                found = entry in file.read().split(b"\0")
            if found:
                os.kill(int(name), signal.SIGKILL)
