"""Basic authentication of the gateway's own routes (RFC 7617)."""

import base64
import binascii
import hmac

from sam_gateway.errors import UnauthorizedError


def check_basic_auth(header: str | None, expected: tuple[str, str], route: str) -> None:
    """Compare an Authorization header with the user and password set.

    Label Studio sends none with webhooks, and a container's health check has none. Wrong ones at
    a health check are refused: then Label Studio tells the user, when the gateway is added.

    Raises UnauthorizedError.
    """
    if route == "webhook" or (route == "health" and header is None):
        return
    given = _credentials(header or "")
    wanted = ":".join(expected).encode()
    if not hmac.compare_digest(given, wanted):
        raise UnauthorizedError(
            "user or password is missing or wrong: give Label Studio those of BASIC_AUTH_USER and "
            "BASIC_AUTH_PASS"
        )


def _credentials(header: str) -> bytes:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
