"""The server that a command talks to: its flags, and the client built from flags, environment and profile."""

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

__all__ = ["CliContext", "ServerOptions", "with_server_options"]

# How to set each client setting on the command line.
_FLAG_HINTS = {
    "server": "--server URL",
    "token": "--token-file PATH, or --username NAME",
    "token_file": "--token-file PATH",
    "ca_bundle": "--ca-bundle PATH",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CliContext:
    """What commands share, as the ``obj`` of the click context.

    Attributes:
        default_server: The server to use if none is configured.
    """

    default_server: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server and the user, as given by flags. There is no flag for a token: other users can see command lines."""

    server: str | None
    profile: str | None
    username: str | None
    token_file: str | None
    ca_bundle: str | None

    def client(self, ctx: typer.Context) -> BatchJobManagerClient:
        """Create a client for the server.

        Raises:
            ConfigurationError: No server or credentials are configured, or a setting is invalid.
        """
        from airflow_batchexec.client import (  # noqa: PLC0415  requests is slow to import
            BatchJobManagerClient,
            ClientSettings,
        )

        cli_context = ctx.find_object(CliContext) or CliContext()
        try:
            settings = ClientSettings.find(
                server=self.server,
                profile=self.profile,
                username=self.username,
                token_file=self.token_file,
                ca_bundle=self.ca_bundle,
                default_server=cli_context.default_server,
                ask_password=_ask_password if sys.stdin.isatty() else None,
            )
        except ConfigurationError as error:
            flags = _FLAG_HINTS.get(error.details.get("field", ""))
            if flags is None:
                raise
            raise ConfigurationError(
                f"{error.message} On the command line: {flags}.", **error.details
            ) from error
        return BatchJobManagerClient(settings=settings)

    def flags(self) -> dict[str, str]:
        """Return the flags that the user passed, with their values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f"--{name.replace('_', '-')}": value for name, value in values.items() if value is not None}

    def command(self, ctx: typer.Context, name: str, execution_id: str) -> str:
        """Return a command line for an execution, to copy and paste: same server, same user."""
        words = ["--execution-id", execution_id]
        for flag_name, value in self.flags().items():
            words += [flag_name, value]
        assert ctx.parent is not None, "every command belongs to a group"
        return f"{ctx.parent.command_path} {name} {shlex.join(words)}"


_FLAGS = (
    flag(
        "server",
        str | None,
        "--server",
        metavar="URL",
        help="Airflow's URL. Default: BATCHEXEC_SERVER, then the configuration file.",
    ),
    flag(
        "profile",
        str | None,
        "--profile",
        metavar="NAME",
        help="The profile (table) of the configuration file. Default: BATCHEXEC_PROFILE, then default.",
    ),
    flag(
        "username",
        str | None,
        "--username",
        metavar="NAME",
        help="Log in as this user. The password comes from BATCHEXEC_PASSWORD, the configuration file, or a prompt.",
    ),
    flag(
        "token_file",
        str | None,
        "--token-file",
        metavar="PATH",
        help="A file with an Airflow API token. To pass the token itself, set BATCHEXEC_TOKEN: other users can see "
        "command lines.",
    ),
    flag(
        "ca_bundle",
        str | None,
        "--ca-bundle",
        metavar="PATH",
        help="CA certificates to trust instead of the default ones.",
    ),
)


def with_server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the server flags to a command, which receives them as its ``server`` argument."""
    return with_flags("server", _FLAGS, ServerOptions)(command)


def _ask_password(username: str) -> str:
    password: str = typer.prompt(f"Password for {username}", hide_input=True, err=True)
    return password
