"""The policies of ``docs/credentials.md`` with a test's names filled in, and the tokens that one of them requires."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

from documents import ROOT, blocks

__all__ = ["ISSUER", "MAY_ASSUME", "documented_policy", "oidc_token", "trust"]

ISSUER = "oidc.example.com/id/CLUSTER"
MAY_ASSUME = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}


def documented_policy(file: str, **names: str) -> dict[str, Any]:
    """Load a policy from the document, and replace its placeholders."""
    (text,) = [block.text for block in blocks(ROOT / "docs" / "credentials.md") if block.file == file]
    for placeholder, name in names.items():
        assert placeholder in text
        text = text.replace(placeholder, name)
    policy: dict[str, Any] = json.loads(text)
    return policy


def trust(account_id: str, principal: str = "root", **condition: Any) -> dict[str, Any]:
    """Create a trust policy for a principal of the account."""
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account_id}:{principal}"},
        "Action": "sts:AssumeRole",
        "Condition": condition,
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def oidc_token(
    *,
    audience: str = "sts.amazonaws.com",
    subject: str = "system:serviceaccount:jobs:worker",
    issuer: str = f"https://{ISSUER}",
) -> str:
    """Create a token as a cluster issues it to a pod. The server does not verify its signature."""
    parts = ({"alg": "RS256", "typ": "JWT"}, {"iss": issuer, "aud": audience, "sub": subject})
    return ".".join([*(_base64(json.dumps(part).encode()) for part in parts), _base64(b"signature")])


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
