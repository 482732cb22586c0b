"""Looks up connections and secrets in Airflow, and tells "not found" from a failed lookup."""

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

_MAX_UNMASKED_LINE_LENGTH = 16


def find_connection(conn_id: str, *, field: str) -> Connection | None:
    """The connection with this id; ``None`` if it does not exist.

    Args:
        conn_id: The connection's id.
        field: The field that names the connection, for error messages.

    Raises:
        AccessDeniedError: Access to the connection is denied.
        StorageError: The lookup failed.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        if internals.lookup_failed(conn_id=conn_id):
            raise _unavailable(field, f"connection {conn_id!r}") from None
        return None
    except PermissionError:
        raise _forbidden(field, f"connection {conn_id!r}") from None


def read_secret(name: str, *, field: str, masked: bool = True) -> str:
    """The value of a secret (an Airflow Variable), stripped of surrounding whitespace and masked in logs.

    Args:
        name: The secret's name.
        field: The field that names the secret, for error messages.
        masked: Whether the value must be long enough to be masked; not needed for the id of a key, which is not secret.

    Raises:
        AccessDeniedError: Access to the secret is denied.
        ConfigurationError: The secret does not exist, or is too short.
        StorageError: The lookup failed.
    """
    try:
        value = str(Variable.get(name)).strip()
    except (AirflowRuntimeError, KeyError):
        if internals.lookup_failed(variable=name):
            raise _unavailable(field, f"secret {name!r}") from None
        raise ConfigurationError(
            f"{field}: secret (Airflow Variable) {name!r} does not exist.", field=field
        ) from None
    except PermissionError:
        raise _forbidden(field, f"secret {name!r}") from None
    min_length = conf.getint("logging", "min_length_masked_secret", fallback=5) if masked else 1
    if len(value) < min_length:
        raise ConfigurationError(
            f"{field}: secret {name!r} is shorter than {min_length} characters, too short to be masked in logs.",
            field=field,
        )
    mask_secret(value)
    return value


def mask_service_account(key: str) -> None:
    """Mask a Google Cloud key in logs: the private key in the document, each of its lines, and its id."""
    try:
        document = json.loads(key)
    except ValueError:
        return  # reported when the key is used
    for name in ("private_key", "private_key_id"):
        value = document.get(name) if isinstance(document, dict) else None
        if isinstance(value, str):
            lines = [
                line
                for line in value.splitlines()
                if len(line) > _MAX_UNMASKED_LINE_LENGTH and "-----" not in line
            ]
            for secret in (value, json.dumps(value)[1:-1], *lines):
                mask_secret(secret)


def _unavailable(field: str, what: str) -> StorageError:
    return StorageError(f"{field}: Airflow could not look up {what}. Try again later.", field=field)


def _forbidden(field: str, what: str) -> AccessDeniedError:
    return AccessDeniedError(f"{field}: Airflow denies this task access to {what}.", field=field)
