"""Flags that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

__all__ = ["ModelRepositoryOption", "Output", "OutputOption"]


class Output(str, Enum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", help="A table to read, or one JSON document.")]

ModelRepositoryOption = Annotated[
    str | None,
    typer.Option(
        "--model-repository",
        metavar="URI",
        envvar="BATCHEXEC_MODEL_REPOSITORY",
        help="Where builds lie: a folder, or a URI.",
    ),
]
