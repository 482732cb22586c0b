"""The server that a command talks to: flags, and the client that they make with the environment and the client's file."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import typer

from airflow_batchexec.cli.options import flag, with_flags
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.client import BatchJobManagerClient

__all__ = ["ServerOptions", "Surroundings", "takes_server"]

# How the settings of the client are given on the command line.
_SETTINGS = {
    "server": "--server URL",
    "token": "--token-file PATH, or --username NAME",
    "token_file": "--token-file PATH",
    "ca_bundle": "--ca-bundle PATH",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command finds around it, as the ``obj`` of its context.

    Attributes:
        default_server: The server where nothing names one.
    """

    default_server: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server and the user, as far as the command line names them. A token is not a flag: others can see those."""

    server: str | None
    profile: str | None
    username: str | None
    token_file: str | None
    ca_bundle: str | None

    def client(self, ctx: typer.Context) -> BatchJobManagerClient:
        """The client of that server.

        Raises:
            ConfigurationError: No server or no user is named anywhere, or a setting is wrong.
        """
        from airflow_batchexec.client import (  # noqa: PLC0415  requests takes its time
            BatchJobManagerClient,
            ClientSettings,
        )

        surroundings = ctx.find_object(Surroundings) or Surroundings()
        try:
            settings = ClientSettings.find(
                server=self.server,
                profile=self.profile,
                username=self.username,
                token_file=self.token_file,
                ca_bundle=self.ca_bundle,
                default_server=surroundings.default_server,
                ask_password=_ask_password if sys.stdin.isatty() else None,
            )
        except ConfigurationError as error:
            flags = _SETTINGS.get(error.details.get("field", ""))
            if flags is None:
                raise
            raise ConfigurationError(
                f"{error.message} On the command line: {flags}.", **error.details
            ) from error
        return BatchJobManagerClient(settings=settings)

    def given(self) -> dict[str, str]:
        """The flags that are on the command line, with their values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f"--{name.replace('_', '-')}": value for name, value in values.items() if value is not None}

    def command(self, ctx: typer.Context, name: str, execution_id: str) -> str:
        """A command line about an execution, to be copied: for the same server, as the same user."""
        words = ["--execution-id", execution_id]
        for flag_name, value in self.given().items():
            words += [flag_name, value]
        assert ctx.parent is not None, "every command is one of a group"
        return f"{ctx.parent.command_path} {name} {shlex.join(words)}"


_FLAGS = (
    flag(
        "server",
        str | None,
        "--server",
        metavar="URL",
        help="Airflow's address. Unset: BATCHEXEC_SERVER, else the configuration file's.",
    ),
    flag(
        "profile",
        str | None,
        "--profile",
        metavar="NAME",
        help="The table of the configuration file to use. Unset: BATCHEXEC_PROFILE, else default.",
    ),
    flag(
        "username",
        str | None,
        "--username",
        metavar="NAME",
        help="Log in as this user. The password comes from BATCHEXEC_PASSWORD or the configuration file, or is asked for.",
    ),
    flag(
        "token_file",
        str | None,
        "--token-file",
        metavar="PATH",
        help="A file that holds a token of Airflow. A token itself is best given in BATCHEXEC_TOKEN: what stands on a "
        "command line can be seen by others.",
    ),
    flag(
        "ca_bundle",
        str | None,
        "--ca-bundle",
        metavar="PATH",
        help="Certificates to trust in place of the usual ones.",
    ),
)


def takes_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in its argument ``server``, the flags that name one."""
    return with_flags("server", _FLAGS, ServerOptions)(command)


def _ask_password(username: str) -> str:
    password: str = typer.prompt(f"Password of {username}", hide_input=True, err=True)
    return password
