"""Label Studio's tokens: the legacy kind, and personal access tokens (JWT).

A personal access token is a refresh token: it is exchanged for an access token of some minutes.
"""

import asyncio
import base64
import binascii
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import orjson

# Fetching an image may take a while after the header was made.
_EARLY_S = 30.0
# What Label Studio gives, for an access token that does not say.
_USUAL_LIFETIME_S = 300.0

_LEGACY = re.compile(r"[0-9a-f]{40}")


class Credential(Protocol):
    """Something that Label Studio may accept."""

    name: str
    # What a user calls it, by its form.
    kind: str
    # Unix time, if the token says it itself.
    expires: float | None

    async def authorization(self, *, rejected: str | None = None) -> str:
        """Return the Authorization header; `rejected` is one that has just been refused.

        The header is `rejected` itself where nothing newer can be had.
        """


class StaticToken:
    """A legacy token, or an access token that somebody pasted: sent as it is."""

    def __init__(self, name: str, scheme: str, token: str) -> None:
        """`scheme` is the first word of the header."""
        self.name = name
        if scheme == "Bearer":
            self.kind = "access token"
        else:
            self.kind = "legacy token" if _LEGACY.fullmatch(token) else "token of unknown form"
        self.expires = _expiry(token)
        self._header = f"{scheme} {token}"

    async def authorization(self, *, rejected: str | None = None) -> str:
        """Return the only header there is."""
        del rejected
        return self._header


class PersonalAccessToken:
    """A refresh token, with the access token it was last exchanged for."""

    def __init__(self, name: str, token: str, exchange: Callable[[str], Awaitable[str]]) -> None:
        """`exchange` gets the refresh token and returns an access token."""
        self.name = name
        self.kind = "personal access token"
        self.expires = _expiry(token)
        self._token = token
        self._exchange = exchange
        self._header = ""
        self._expires = 0.0
        self._lock = asyncio.Lock()

    async def authorization(self, *, rejected: str | None = None) -> str:
        """Return a header with an access token that is still good for a while."""
        async with self._lock:  # one exchange at a time, the others use its result
            if self._header == rejected or time.monotonic() >= self._expires - _EARLY_S:
                access = await self._exchange(self._token)
                self._header = f"Bearer {access}"
                self._expires = time.monotonic() + _lifetime_s(access)
            return self._header


async def headers(credential: Credential) -> AsyncIterator[str]:
    """Yield the Authorization header; to who goes on because it was refused, a newer one.

    There may be none. Raises what exchanging a token raises.
    """
    header = await credential.authorization()
    yield header
    renewed = await credential.authorization(rejected=header)
    if renewed != header:
        yield renewed


def is_token(text: str) -> bool:
    """Whether a text can be sent as a token: visible ASCII characters without spaces."""
    return text.isascii() and text.isprintable() and " " not in text and text != ""


def credential(name: str, token: str, exchange: Callable[[str], Awaitable[str]]) -> Credential:
    """Tell the kind of a token by its looks; `name` is what messages call it.

    `exchange` gets a personal access token and returns an access token.
    """
    claims = _claims(token)
    if claims.get("token_type") == "refresh":
        return PersonalAccessToken(name, token, exchange)
    return StaticToken(name, "Bearer" if claims else "Token", token)


def _lifetime_s(token: str) -> float:
    claims = _claims(token)
    issued, expires = claims.get("iat"), claims.get("exp")
    if isinstance(issued, int | float) and isinstance(expires, int | float):
        return max(float(expires - issued), 0.0)  # the difference: clocks may disagree
    return _USUAL_LIFETIME_S


def _expiry(token: str) -> float | None:
    expires = _claims(token).get("exp")
    return float(expires) if isinstance(expires, int | float) else None


def _claims(token: str) -> dict[str, object]:
    """Read the claims of a JWT, unverified; empty for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
