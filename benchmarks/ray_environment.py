"""The virtual environment of the peer that uses Ray, which is not a dependency of this project.

It is created on first use, in ``.bench/``, with the versions of this environment for everything that the model needs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

RAY = "2.60.0"
FOLDER = Path(__file__).resolve().parents[1] / ".bench" / "ray"
SHARED = ("joblib", "numpy", "pandas", "pyarrow", "scikit-learn")
INSTALL_SECONDS = 900


class RayMissingError(Exception):
    """Ray cannot be installed on this machine; the message says why."""


def ray_python() -> Path:
    """Return an interpreter that has Ray Data; the first call takes a minute or two.

    Raises:
        RayMissingError: The environment cannot be created.
    """
    requirements = [f"ray[data]=={RAY}", *(f"{name}=={version(name)}" for name in SHARED)]
    python, installed = FOLDER / "bin" / "python", FOLDER / "installed.txt"
    text = "\n".join([sys.version, *requirements])
    if installed.is_file() and installed.read_text() == text:
        return python
    print(f"Installing Ray {RAY} into {FOLDER} ...", file=sys.stderr, flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    _run("create an environment", sys.executable, "-m", "venv", FOLDER)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(f"install Ray {RAY}", *pip, *requirements)
    _run(f"import Ray {RAY}", python, "-c", "import ray.data")
    installed.write_text(text)
    return python


def _run(doing: str, *command: object) -> None:
    try:
        done = subprocess.run(
            [str(word) for word in command],
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RayMissingError(f"Could not {doing} within {INSTALL_SECONDS} s.") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise RayMissingError(f"Could not {doing}: {(errors or lines)[-1].strip()}")
