"""Connections and secrets from Airflow, where "there is none" and "Airflow cannot say" are two things."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, Variable, conf
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
from airflow.sdk.log import mask_secret

from airflow_batchexec import internals
from airflow_batchexec.exceptions import AccessDeniedError, ConfigurationError, StorageError

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["find_connection", "mask_service_account", "read_secret"]

_SHORTEST_LINE = 16


def find_connection(conn_id: str, *, field: str) -> Connection | None:
    """A connection, or ``None`` where there is none of that id.

    Raises:
        AccessDeniedError: It may not be read here.
        StorageError: Airflow cannot be asked.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        if internals.cannot_be_asked(conn_id=conn_id):
            raise _unknown(field, f"the connection {conn_id!r}") from None
        return None
    except PermissionError:
        raise _forbidden(field, f"the connection {conn_id!r}") from None


def read_secret(name: str, *, field: str, masked: bool = True) -> str:
    """The value of a secret (an Airflow Variable), without white space around it; logs no longer show it.

    Args:
        name: The secret's name.
        field: Where it is named.
        masked: Whether the value must be long enough to be masked; the id of a key, which is no secret, need not.

    Raises:
        AccessDeniedError: It may not be read here.
        ConfigurationError: There is none of that name, or it is too short.
        StorageError: Airflow cannot be asked.
    """
    try:
        value = str(Variable.get(name)).strip()
    except (AirflowRuntimeError, KeyError):
        if internals.cannot_be_asked(variable=name):
            raise _unknown(field, f"the secret {name!r}") from None
        raise ConfigurationError(
            f"{field}: there is no secret (Airflow Variable) named {name!r}.", field=field
        ) from None
    except PermissionError:
        raise _forbidden(field, f"the secret {name!r}") from None
    shortest = conf.getint("logging", "min_length_masked_secret", fallback=5) if masked else 1
    if len(value) < shortest:
        raise ConfigurationError(
            f"{field}: the secret {name!r} is shorter than {shortest} characters, too short to be masked in logs.",
            field=field,
        )
    mask_secret(value)
    return value


def mask_service_account(key: str) -> None:
    """Keep a Google Cloud key out of logs: the document, the private key in it, and each of its lines."""
    try:
        parts = json.loads(key)
    except ValueError:
        return  # whoever uses it says that it is no key
    for name in ("private_key", "private_key_id"):
        value = parts.get(name) if isinstance(parts, dict) else None
        if isinstance(value, str):
            lines = [
                line for line in value.splitlines() if len(line) > _SHORTEST_LINE and "-----" not in line
            ]
            for secret in (value, json.dumps(value)[1:-1], *lines):
                mask_secret(secret)


def _unknown(field: str, what: str) -> StorageError:
    return StorageError(f"{field}: Airflow could not be asked for {what}. Try again later.", field=field)


def _forbidden(field: str, what: str) -> AccessDeniedError:
    return AccessDeniedError(f"{field}: Airflow does not let this task read {what}.", field=field)
