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
"""No markup in help texts: rich truncates long flags on narrow terminals, and is slow to import."""


class Output(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", help="Human-readable text, or one JSON document.")]

ModelRepositoryOption = Annotated[
    str | None,
    typer.Option(
        "--model-repository",
        metavar="URI",
        envvar="BATCHEXEC_MODEL_REPOSITORY",
        help="The model repository: a folder or a URI.",
    ),
]

ExecutionIdOption = Annotated[
    str, typer.Option("--execution-id", metavar="ID", help="The execution ID printed by start.")
]


def flag(name: str, kind: Any, *declarations: str, **option: Any) -> inspect.Parameter:
    """Return an optional flag as a parameter of a command's signature; ``None`` if the user does not pass it."""
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, typer.Option(*declarations, show_default=False, **option)],
    )


def with_flags(
    argument: str, flags: Sequence[inspect.Parameter], gather: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace one argument of a command by several command-line flags.

    Args:
        argument: The keyword-only argument of the command that the flags replace.
        flags: The flags.
        gather: Builds the argument from the flags, which it receives by name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            gathered = gather(**{flag.name: values.pop(flag.name) for flag in flags})
            command(**values, **{argument: gathered})

        # typer reads this signature; it needs evaluated annotations.
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += flags if parameter.name == argument else [parameter]
        vars(wrapper)["__signature__"] = signature.replace(parameters=parameters)
        return wrapper

    return decorate
