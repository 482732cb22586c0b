"""Service accounts for tests: keys made at run time, and the giving of tokens for what is signed with them."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

__all__ = ["Account", "Accounts"]

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_AUDIENCE = "https://oauth2.googleapis.com/token"  # Google's library names it whatever the key's token_uri is
_SCOPES = {
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/devstorage.full_control",
    "https://www.googleapis.com/auth/cloud-platform",
}


@dataclass(frozen=True)
class Account:
    """A service account, and its key as Google gives it out.

    Attributes:
        email: Its name.
        key: The JSON text of its key.
    """

    email: str
    key: str = field(repr=False)

    @property
    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = json.loads(self.key)
        return parts


class Accounts:
    """What Google knows of its service accounts: their public keys, and whose a token is."""

    def __init__(self) -> None:
        self._public: dict[str, rsa.RSAPublicKey] = {}
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self.given = 0

    def make(self, name: str, *, token_uri: str, known: bool = True) -> Account:
        """A new account; one that is not known has a key that nobody at Google has the other half of."""
        email = f"{name}@tests.iam.gserviceaccount.com"
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        if known:
            self._public[email] = private.public_key()
        key = {
            "type": "service_account",
            "project_id": "tests",
            "private_key_id": secrets.token_hex(20),
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": token_uri,
        }
        return Account(email, json.dumps(key, indent=2))

    def holder(self, token: str) -> str | None:
        """The account that a token was given to."""
        return self._tokens.get(token)

    def forget_tokens(self) -> None:
        """Let every token that was given be of no use."""
        with self._lock:
            self._tokens.clear()

    def exchange(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """The answer to a request for a token (RFC 7523): HTTP status and content."""
        if form.get("grant_type") != [_GRANT]:
            return 400, {"error": "unsupported_grant_type"}
        try:
            email = self._signer(form["assertion"][0])
        except (ValueError, KeyError, binascii.Error, InvalidSignature) as error:
            described = str(error) if isinstance(error, ValueError) else "Invalid JWT Signature."
            return 400, {"error": "invalid_grant", "error_description": described}
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[token] = email
            self.given += 1
        return 200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def _signer(self, assertion: str) -> str:
        header, claims, signature = assertion.split(".")
        if json.loads(_decoded(header))["alg"] != "RS256":
            raise ValueError("Invalid JWT: not signed with RS256.")
        stated = json.loads(_decoded(claims))
        if stated["iss"] not in self._public:
            raise ValueError("Invalid grant: account not found")
        self._public[stated["iss"]].verify(
            _decoded(signature), f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        now = time.time()
        if (
            stated["aud"] != _AUDIENCE
            or not stated["iat"] - 60 <= now < stated["exp"] <= stated["iat"] + 3600
        ):
            raise ValueError("Invalid JWT: not for this server, or not now.")
        if not _SCOPES & set(stated["scope"].split()):
            raise ValueError("Invalid OAuth scope.")
        return str(stated["iss"])


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
