"""Flags that several commands share."""

from __future__ import annotations

import functools
import inspect
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "PLAIN",
    "ExecutionIdOption",
    "ModelRepositoryOption",
    "Output",
    "OutputOption",
    "flag",
    "with_flags",
]

PLAIN = None
"""The markup of help texts: none. Rich's help cuts long flags on a narrow terminal, and takes its time to load."""


class Output(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", help="Text to read, or one JSON document.")]

ModelRepositoryOption = Annotated[
    str | None,
    typer.Option(
        "--model-repository",
        metavar="URI",
        envvar="BATCHEXEC_MODEL_REPOSITORY",
        help="Where builds lie: a folder, or a URI.",
    ),
]

ExecutionIdOption = Annotated[
    str, typer.Option("--execution-id", metavar="ID", help="The execution, as start named it.")
]


def flag(name: str, kind: Any, *declarations: str, **option: Any) -> inspect.Parameter:
    """An optional flag as a command's signature would hold it: unset where the user does not give it."""
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, typer.Option(*declarations, show_default=False, **option)],
    )


def with_flags(
    argument: str, flags: Sequence[inspect.Parameter], gather: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let one argument of a command stand for several flags of the command line.

    Args:
        argument: The command's argument, which is keyword-only; the flags take its place.
        flags: The flags.
        gather: Makes the argument of them; it is called with their names.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def spread(**values: Any) -> None:
            gathered = gather(**{flag.name: values.pop(flag.name) for flag in flags})
            command(**values, **{argument: gathered})

        # What typer reads, with real types in place of their names.
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += flags if parameter.name == argument else [parameter]
        vars(spread)["__signature__"] = signature.replace(parameters=parameters)
        return spread

    return decorate
