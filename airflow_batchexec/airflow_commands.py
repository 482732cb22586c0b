"""``airflow batchexec …``: the commands of ``batchexec`` as a group of Airflow's own command line.

Airflow imports this module whenever its command line starts; ours is imported only when it is used.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand

__all__ = ["get_commands"]


class _Everything(Arg):
    """All words that follow, options included."""

    def __init__(self) -> None:
        super().__init__(("words",), nargs=REMAINDER)  # type: ignore[no-untyped-call]  # typed in part

    def add_to_parser(self, parser: ArgumentParser) -> None:
        """Add the argument, and let the parser take no word for an option of its own: not even a first ``--help``."""
        super().add_to_parser(parser)
        parser.prefix_chars = ""


def get_commands() -> list[CLICommand]:
    """What the provider adds to Airflow's command line."""
    return [
        ActionCommand(
            name="batchexec",
            help="Batch executions: start and watch them, publish and deploy models",
            func=_run,
            args=(_Everything(),),
        )
    ]


def _run(arguments: Namespace) -> None:
    from airflow.cli.utils import (  # noqa: PLC0415  the other commands of Airflow start without it
        redirect_stdout_log_handlers_to_stderr,
    )
    from airflow.sdk.configuration import conf  # noqa: PLC0415  as above

    from airflow_batchexec.cli import main  # noqa: PLC0415  as above

    # As Airflow does for commands of its own that print JSON.
    redirect_stdout_log_handlers_to_stderr()
    main(
        arguments.words,
        program="airflow batchexec",
        default_server=conf.get("api", "base_url", fallback="") or None,
    )
