"""What the commands that ask a gateway have in common: its address and its password."""

import base64

from yarl import URL

from sam_gateway.config import Config


def configured_url(config: Config) -> URL:
    """Return where a gateway with these settings listens."""
    return URL.build(scheme="http", host=config.host, port=config.port, path=config.path_prefix)


def route(url: URL, name: str) -> URL:
    """Return the address of a route of the gateway."""
    return url.with_path(f"{url.path.rstrip('/')}/{name}")


def basic_headers(config: Config) -> dict[str, str]:
    """Return the headers of a caller that knows the gateway's user and password."""
    if not config.basic_auth:
        return {}
    credentials = base64.b64encode(":".join(config.basic_auth).encode()).decode()
    return {"Authorization": f"Basic {credentials}"}
