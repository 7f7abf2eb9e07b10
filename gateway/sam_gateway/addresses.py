"""Which network addresses the gateway connects to for an image that a task names."""

import ipaddress
import re
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from sam_gateway.config import AllowedHosts
from sam_gateway.errors import ImageRefusedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 6052: the last 32 bits are an IPv4 address, reached through a translator.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What the C library takes as an IPv4 address in an odd spelling, such as 127.1, 0177.0.0.1 or
# 0x7f000001: the last label is a number, which no top-level domain is (URL standard, "ends in a
# number").
_ENDS_IN_A_NUMBER = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)\.*$", re.IGNORECASE)


def origin(url: URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port, what the web calls the origin."""
    return url.scheme.lower(), (url.raw_host or "").lower(), url.port


def public(address: str) -> str:
    """Return an address without what may be secret: user info, query, fragment."""
    bare = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", address, maxsplit=1)[0])
    return bare if len(bare) <= 200 else bare[:200] + "…"


class AddressPolicy:
    """Private, loopback and other special addresses are refused, but for hosts that are named.

    Task data is user input: without this, anybody who may import a task could have the gateway
    fetch from the network that it stands in.
    """

    def __init__(self, allowed: AllowedHosts) -> None:
        """`allowed` are the hosts that may have any address."""
        self._allowed = allowed
        # Hosts and ports where Label Studio is, or is looked for.
        self.label_studio: frozenset[tuple[str, int | None]] = frozenset()

    def check_url(self, url: URL) -> None:
        """Refuse a URL whose host is written as a forbidden address, or as one in an odd spelling.

        Names are checked when they are resolved, see CheckedResolver. What looks like an address
        to the HTTP client is never resolved, hence nothing may pass as a name here that does.

        Raises ImageRefusedError.
        """
        host = url.raw_host or ""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if ":" in host or _ENDS_IN_A_NUMBER.search(host):
                raise ImageRefusedError(
                    f"{host} is not an address: expected a host name, four numbers such as "
                    "192.0.2.1, or an IPv6 address in brackets"
                ) from None
            return
        self.check(host, url.port or 0, address)

    def check(self, host: str, port: int, address: Address) -> None:
        """Refuse an address of a host that is neither public nor allowed.

        Raises ImageRefusedError.
        """
        host, address = host.lower().strip("[]"), _unwrapped(address)
        if (
            (address.is_global and not address.is_multicast)
            or (host, port) in self.label_studio
            or host in self._allowed.names
            or any(address in network for network in self._allowed.networks)
        ):
            return
        raise ImageRefusedError(
            f"{host} is at a private or reserved address; if images are to come from there, "
            "name it in ALLOWED_IMAGE_HOSTS"
        )


class CheckedResolver(AbstractResolver):
    """Resolves names for connections, and lets only addresses through that the policy allows.

    What it returns is what is connected to, so that a name which resolves differently the next
    time gains nothing.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        """`policy` is asked about every address."""
        self._policy = policy
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name; raises ImageRefusedError if one of its addresses is forbidden."""
        results = await self._resolver.resolve(host, port, family)
        for result in results:
            self._policy.check(host, port, ipaddress.ip_address(result["host"]))
        return results

    async def close(self) -> None:
        """Do nothing: no connection is held."""


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
