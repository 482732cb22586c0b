"""Service accounts for tests: generates keys at run time, and issues tokens for requests signed with them."""

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
_AUDIENCE = "https://oauth2.googleapis.com/token"  # Google's library uses it whatever the key's token_uri is
_SCOPES = {
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/devstorage.full_control",
    "https://www.googleapis.com/auth/cloud-platform",
}


@dataclass(frozen=True)
class Account:
    """A service account, and its key as Google issues it.

    Attributes:
        email: The account's name.
        key: The JSON text of the account's key.
    """

    email: str
    key: str = field(repr=False)

    @property
    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = json.loads(self.key)
        return parts


class Accounts:
    """Google's records of service accounts: their public keys, and the tokens they hold."""

    def __init__(self) -> None:
        self._public: dict[str, rsa.RSAPublicKey] = {}
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self.given = 0

    def make(self, name: str, *, token_uri: str, known: bool = True) -> Account:
        """Create an account; if it is not ``known``, Google does not have its public key."""
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
        """Return the account that a token was issued to."""
        return self._tokens.get(token)

    def forget_tokens(self) -> None:
        """Invalidate all issued tokens."""
        with self._lock:
            self._tokens.clear()

    def exchange(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Respond to a token request (RFC 7523) with HTTP status and content."""
        if form.get("grant_type") != [_GRANT]:
            return 400, {"error": "unsupported_grant_type"}
        try:
            email = self._signer(form["assertion"][0])
        except (ValueError, KeyError, binascii.Error, InvalidSignature) as error:
            description = str(error) if isinstance(error, ValueError) else "Invalid JWT Signature."
            return 400, {"error": "invalid_grant", "error_description": description}
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[token] = email
            self.given += 1
        return 200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def _signer(self, assertion: str) -> str:
        header, claims, signature = assertion.split(".")
        if json.loads(_decoded(header))["alg"] != "RS256":
            raise ValueError("Invalid JWT: not signed with RS256.")
        claimed = json.loads(_decoded(claims))
        if claimed["iss"] not in self._public:
            raise ValueError("Invalid grant: account not found")
        self._public[claimed["iss"]].verify(
            _decoded(signature), f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        now = time.time()
        if (
            claimed["aud"] != _AUDIENCE
            or not claimed["iat"] - 60 <= now < claimed["exp"] <= claimed["iat"] + 3600
        ):
            raise ValueError("Invalid JWT: wrong audience or lifetime.")
        if not _SCOPES & set(claimed["scope"].split()):
            raise ValueError("Invalid OAuth scope.")
        return str(claimed["iss"])


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
