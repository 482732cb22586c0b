"""``airflow batchexec …``: the ``batchexec`` commands as part of Airflow's command line.

Airflow imports this module on every start of its command line; ``airflow_batchexec.cli`` is imported only on use.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand

__all__ = ["get_commands"]


class _RemainingArguments(Arg):
    """All arguments that follow, including options."""

    def __init__(self) -> None:
        super().__init__(("arguments",), nargs=REMAINDER)  # type: ignore[no-untyped-call]  # partially typed

    def add_to_parser(self, parser: ArgumentParser) -> None:
        """Add the argument, and keep the parser from treating anything as its own option, even a leading ``--help``."""
        super().add_to_parser(parser)
        parser.prefix_chars = ""


def get_commands() -> list[CLICommand]:
    """The commands that this provider adds to Airflow's command line."""
    return [
        ActionCommand(
            name="batchexec",
            help="Batch executions: start and watch them, publish and deploy models",
            func=_run,
            args=(_RemainingArguments(),),
        )
    ]


def _run(args: Namespace) -> None:
    from airflow.cli.utils import (  # noqa: PLC0415  not for Airflow's other commands
        redirect_stdout_log_handlers_to_stderr,
    )
    from airflow.sdk.configuration import conf  # noqa: PLC0415  as above

    from airflow_batchexec.cli import main  # noqa: PLC0415  as above

    # As in Airflow's own commands that print JSON.
    redirect_stdout_log_handlers_to_stderr()
    main(
        args.arguments,
        program="airflow batchexec",
        default_server=conf.get("api", "base_url", fallback="") or None,
    )
