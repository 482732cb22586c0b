"""The OpenAPI schema of a start request: both forms, in snake_case. Other accepted spellings are omitted."""

from __future__ import annotations

from typing import Any

from airflow_batchexec.wire.request_tree import PAIR, START, Leaf, Pairs, Tree

__all__ = ["START_REQUEST"]


def _schema(member: Leaf | Pairs | Tree) -> dict[str, Any]:
    described = {"description": member.description} if member.description else {}
    if isinstance(member, Leaf):
        return {**member.scalar.schema, **described}
    if isinstance(member, Pairs):
        pair = {name: dict(scalar.schema) for name, scalar in PAIR.items()}
        return {
            "type": ["array", "null"],
            "items": {"type": "object", "properties": pair},
            **described,
        }
    properties = {name: _schema(inner) for name, inner in member.members.items()}
    limit = {"maxProperties": 1} if member.one_of else {}
    return {"type": ["object", "null"], "properties": properties, **limit, **described}


# Unlike its members, the request itself must not be null.
START_REQUEST: dict[str, Any] = {**_schema(START), "type": "object"}
"""The JSON schema of a start request."""
