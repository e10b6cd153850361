"""Where a request really comes from: the peer, or who stands behind the proxies that are trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDING_HEADERS = frozenset(
    {
        "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip",
        "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip", "via",
    }
)  # fmt: skip
"""A request with any of these came through a proxy, so its peer is not its origin."""

_FORWARDED_FOR = re.compile(r"(?:^|[;,\s])for=\"?(\[[^\]\"]+\](?::\d+)?|[^\";,\s]+)\"?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a request.

    Attributes:
        address: Its address; None if the proxies do not tell.
        is_local: Whether it surely is this machine.
    """

    address: Address | None
    is_local: bool

    @property
    def client(self) -> str:
        """What rate limits count by: the address, or the /64 network of an IPv6 one."""
        if self.address is None:
            return "unknown"
        if isinstance(self.address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((self.address, 64), strict=False))
        return str(self.address)


def find_origin(peer: str | None, headers: Mapping[str, str], trusted_proxies: Sequence[Network]) -> Origin:
    """Return where a request comes from.

    Walks the chain of forwarded addresses from the right and stops at the first that is no trusted proxy, because
    everything left of it is only what that stranger says. A request that was forwarded by an untrusted peer is never
    local, whatever it says; nor is one that passed another machine, whose loopback addresses are not ours, or one whose
    headers disagree, because a proxy sets one of them and passes the others on as strangers sent them.

    Args:
        peer: Address at the other end of the socket; None on a unix socket, which counts as this machine.
        headers: Lower-case names.
        trusted_proxies: From ``TRUSTED_PROXIES``.
    """
    direct = _origin_of_peer(peer)
    peer_address = direct.address
    if peer_address is None or FORWARDING_HEADERS.isdisjoint(headers):
        return direct
    if not _is_trusted(peer_address, trusted_proxies):
        return Origin(peer_address, is_local=False)
    chains = _forwarded_chains(headers)
    walks = [_walk(chain, trusted_proxies) for chain in chains]
    passed = [peer_address, *(address for walk in walks for address in walk)]
    is_local = bool(walks) and all(address is not None and address.is_loopback for address in passed)
    return Origin(walks[0][-1] if walks and walks[0] else None, is_local=is_local)


@lru_cache(maxsize=4096)
def _origin_of_peer(peer: str | None) -> Origin:
    address = parse_address(peer) if peer is not None else ipaddress.IPv4Address("127.0.0.1")
    return Origin(address, is_local=address is not None and address.is_loopback)


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """Return the IP address in ``text``, with or without port or brackets; IPv4 inside IPv6 comes out as IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def names_this_machine(host: str, own_names: Sequence[str]) -> bool:
    """Tell whether a ``Host`` header names this machine, so that a name which was rebound to 127.0.0.1 is noticed.

    Args:
        host: The header, with or without port.
        own_names: Further names that are ours (``HOST``).
    """
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost") or name in own_names:
        return True
    address = parse_address(name)
    return address is not None and address.is_loopback


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header without port, brackets or final dot, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def speaks_for_a_foreign_page(headers: Mapping[str, str], allowed_origins: Sequence[str]) -> bool:
    """Tell whether a browser sent this request for a page of another origin than ours.

    Args:
        headers: Lower-case names; programs that are no browsers send neither ``Origin`` nor ``Sec-Fetch-Site``.
        allowed_origins: From ``CORS_ORIGINS``; ``*`` allows all.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
    if "*" in allowed_origins or origin in allowed_origins:
        return False
    try:
        place = urlsplit(origin).netloc
    except ValueError:
        # What is no address is no page of ours.
        return True
    return place.lower() != headers.get("host", "").strip().lower()


def _forwarded_chains(headers: Mapping[str, str]) -> list[list[str]]:
    """Return what each header that names addresses says, from the stranger to the nearest proxy."""
    chains = []
    if "x-forwarded-for" in headers:
        chains.append([part for part in headers["x-forwarded-for"].split(",") if part.strip()])
    if "forwarded" in headers:
        chains.append(_FORWARDED_FOR.findall(headers["forwarded"]))
    if "x-real-ip" in headers:
        chains.append([headers["x-real-ip"]])
    return chains


def _walk(chain: Sequence[str], trusted_proxies: Sequence[Network]) -> list[Address | None]:
    """Return the addresses from the right up to the first that is no trusted proxy; None stands for no address."""
    walked: list[Address | None] = []
    for text in reversed(chain):
        walked.append(parse_address(text))
        if walked[-1] is None or not _is_trusted(walked[-1], trusted_proxies):
            break
    return walked or [None]


def _is_trusted(address: Address, trusted_proxies: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in trusted_proxies)
