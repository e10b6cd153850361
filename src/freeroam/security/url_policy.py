"""Which references may be opened: the text of an address and the addresses its name resolves to; data in, data out.

Tables after the IANA special-purpose registries (RFC 6890 and successors) and the clouds' documentation of their
metadata services. Python's ``is_global`` is not used: it calls NAT64, 6to4 and IPv4-compatible loopbacks global.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

import idna

from freeroam.security.redaction import redact_url
from freeroam.vocabulary.errors import ConfigurationError, ForbiddenReference, InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "redis": 6379, "rediss": 6379}
HTTP_SCHEMES = frozenset({"http", "https"})
SCHEMES = frozenset(DEFAULT_PORTS)
MAX_URL_CHARS = 8192

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTTED_QUAD = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_PORT = re.compile(r"[0-9]{1,5}")

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.169.253",
        "169.254.169.123",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::253",
        "fd00:ec2::123",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fe80::a9fe:a9fe",
    )
)
_ALLOWABLE = frozenset({"loopback", "private", "link-local", "shared", "benchmark"})
"""What ``ALLOW_PRIVATE_SOURCES`` can open: places where somebody's own camera may stand."""

_V4_TABLE = tuple(
    (reason, ipaddress.IPv4Network(text))
    for reason, text in (
        ("broadcast", "255.255.255.255/32"),
        ("unspecified", "0.0.0.0/8"),
        ("loopback", "127.0.0.0/8"),
        ("private", "10.0.0.0/8"),
        ("private", "172.16.0.0/12"),
        ("private", "192.168.0.0/16"),
        ("shared", "100.64.0.0/10"),
        ("link-local", "169.254.0.0/16"),
        ("reserved", "192.0.0.0/24"),
        ("documentation", "192.0.2.0/24"),
        ("reserved", "192.88.99.0/24"),
        ("benchmark", "198.18.0.0/15"),
        ("documentation", "198.51.100.0/24"),
        ("documentation", "203.0.113.0/24"),
        ("multicast", "224.0.0.0/4"),
        ("reserved", "240.0.0.0/4"),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_V6_TABLE = tuple(
    (reason, ipaddress.IPv6Network(text))
    for reason, text in (
        ("unspecified", "::/128"),
        ("loopback", "::1/128"),
        ("IPv4 inside IPv6", "::ffff:0:0/96"),
        ("IPv4 inside IPv6", "::ffff:0:0:0/96"),
        ("IPv4 inside IPv6", "::/96"),
        ("IPv4 inside IPv6", "64:ff9b:1::/48"),
        ("IPv4 inside IPv6", "2002::/16"),
        ("IPv4 inside IPv6", "2001::/32"),
        ("reserved", "2001::/23"),
        ("documentation", "2001:db8::/32"),
        ("documentation", "3fff::/20"),
        ("private", "fc00::/7"),
        ("link-local", "fe80::/10"),
        ("reserved", "fec0::/10"),
        ("multicast", "ff00::/8"),
    )
)
_ISATAP_HIGH = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True)
class ParsedTarget:
    """A reference whose text is in order.

    Attributes:
        scheme: Lower case.
        host: Lower case ASCII: a name without a dot at its end, a dotted quad, or an IPv6 address without brackets.
        port: 1 to 65535; the scheme's own where the text names none.
        path: What follows host and port, beginning with ``/``, query included, fragment cut off.
        username: Percent-decoded; None where there is none.
        password: Percent-decoded; None where there is none.
        has_port: Whether the text named the port.
    """

    scheme: str
    host: str
    port: int
    path: str
    username: str | None = None
    password: str | None = None
    has_port: bool = False

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what credentials and headers belong to."""
        return self.scheme, self.host, self.port

    @property
    def bare_host(self) -> str:
        """The host as a URL writes it, an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def netloc(self) -> str:
        """Host, and port where it is not the scheme's own; what ``Host`` says."""
        is_default = self.port == DEFAULT_PORTS[self.scheme]
        return self.bare_host if is_default else f"{self.bare_host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address without credentials; its query may still hold a token."""
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def shown(self) -> str:
        """The address as logs and errors may show it."""
        return redact_url(self.url)

    @property
    def literal(self) -> Address | None:
        """The address when the host is one."""
        return parse_literal(self.host)

    def without_credentials(self) -> ParsedTarget:
        """Return the same target without user and password."""
        return replace(self, username=None, password=None)


@dataclass(frozen=True, slots=True)
class _Allowed:
    """One entry of ``ALLOW_PRIVATE_SOURCES``."""

    network: Network | None
    name: str | None
    port: int | None

    def covers(self, host: str, address: Address, port: int | None) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return self.name == host

    def names_exactly(self, address: Address) -> bool:
        return self.network is not None and self.network.num_addresses == 1 and address in self.network


class UrlPolicy:
    """Decides which addresses may be opened.

    Args:
        allow_private: Networks (``192.168.1.0/24``), addresses and host names of a user's own cameras; each may end in
            ``:port`` to open that port only. A host name opens that name's addresses only, never a metadata service:
            those open only when their very address is listed.

    Raises:
        ConfigurationError: An entry is none of these.
    """

    def __init__(self, allow_private: tuple[str, ...] = ()) -> None:
        self._allowed = tuple(_parse_allowed(entry) for entry in allow_private if entry.strip())

    def check_text(self, url: str, schemes: frozenset[str] = SCHEMES) -> ParsedTarget:
        """Take a reference apart and refuse what its text alone forbids.

        Args:
            url: An absolute URL.
            schemes: What may be opened here.

        Raises:
            InvalidInput: It is malformed.
            ForbiddenReference: Its scheme, spelling or literal address is forbidden.
        """
        target = parse_target(url, schemes)
        literal = target.literal
        if literal is not None:
            self.check_address(target.host, literal, target.port)
        elif target.host == "localhost" or target.host.endswith(".localhost"):
            self.check_address(target.host, ipaddress.IPv4Address("127.0.0.1"), target.port)
        return target

    def check_address(self, host: str, address: Address | str, port: int | None = None) -> None:
        """Refuse an address that ``host`` stands for.

        Args:
            host: The name or literal of the reference, as ``ParsedTarget.host`` gives it.
            address: One of its addresses.
            port: Where it would be dialled.

        Raises:
            ForbiddenReference: The address may not be opened.
        """
        if isinstance(address, str):
            # A zone id says on which link to send; it never makes an address another one.
            address = ipaddress.ip_address(address.partition("%")[0])
        reason = forbidden_reason(address)
        if reason is None or self._is_allowed(host, address, port, reason):
            return
        message = f"{host} is a {reason} address ({address}); such addresses are not opened"
        if host == str(address):
            message = f"{address} is a {reason} address; such addresses are not opened"
        if reason in _ALLOWABLE:
            message += " unless ALLOW_PRIVATE_SOURCES names them"
        raise ForbiddenReference(message)

    def _is_allowed(self, host: str, address: Address, port: int | None, reason: str) -> bool:
        if reason == "metadata":
            return any(entry.names_exactly(address) and entry.covers(host, address, port) for entry in self._allowed)
        return reason in _ALLOWABLE and any(entry.covers(host, address, port) for entry in self._allowed)


def forbidden_reason(address: Address) -> str | None:
    """Return why ``address`` is not opened by default (a word or two), or None for a public unicast address."""
    if address in _METADATA:
        return "metadata"
    if isinstance(address, ipaddress.IPv4Address):
        return next((reason for reason, network in _V4_TABLE if address in network), None)
    if address in _NAT64:
        # Networks without IPv4 reach all of it by this prefix, so what counts is the address inside.
        return forbidden_reason(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    for reason, network in _V6_TABLE:
        if address in network:
            return reason
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP_HIGH:
        return "IPv4 inside IPv6"
    return None if address in _GLOBAL_UNICAST else "reserved"


def parse_target(url: str, schemes: frozenset[str] = SCHEMES) -> ParsedTarget:
    """Take an absolute URL apart more strictly than browsers do: what two readers may read differently is refused.

    Raises:
        InvalidInput: It is malformed.
        ForbiddenReference: Its scheme is not one of ``schemes``, or its host is an address in disguise.
    """
    if not url or len(url) > MAX_URL_CHARS:
        raise InvalidInput(f"an address has 1 to {MAX_URL_CHARS} characters, this one has {len(url)}")
    if any(ord(character) <= 0x20 or 0x7F <= ord(character) <= 0x9F for character in url):
        raise InvalidInput("an address holds no spaces and no control characters")
    match = _URL.fullmatch(url)
    if match is None:
        known = _SCHEME.match(url)
        if known is not None and known[0][:-1].lower() not in schemes:
            raise ForbiddenReference(_scheme_message(known[0][:-1], schemes))
        raise InvalidInput("an address begins with a scheme and two slashes, like https://example.org/")
    scheme = match["scheme"].lower()
    if scheme not in schemes:
        raise ForbiddenReference(_scheme_message(scheme, schemes))
    if "\\" in match["authority"]:
        raise ForbiddenReference("an address holds no backslash before its path")
    userinfo, at, host_port = match["authority"].rpartition("@")
    username, password = _parse_userinfo(userinfo) if at else (None, None)
    host_text, port_text = _split_port(host_port)
    rest = match["rest"].partition("#")[0]
    return ParsedTarget(
        scheme=scheme,
        host=normalize_host(host_text),
        port=_parse_port(port_text) if port_text else DEFAULT_PORTS[scheme],
        path=rest if rest.startswith("/") else f"/{rest}",
        username=username,
        password=password,
        has_port=bool(port_text),
    )


def normalize_host(text: str) -> str:
    """Return a host as lower-case ASCII, an IPv6 address without its brackets.

    Raises:
        InvalidInput: It is no host name and no address.
        ForbiddenReference: It is an address in another spelling than the plain one.
    """
    if text.startswith("["):
        if not text.endswith("]"):
            raise InvalidInput("an IPv6 address stands in brackets")
        return _parse_v6(text[1:-1])
    host = _to_ascii(text) if not text.isascii() else text.lower()
    host = host.removesuffix(".")
    labels = host.split(".")
    if not host or len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(f"{text!r} is no host name")
    # A name whose last part is a number is read as IPv4 by resolvers, in octal, hex and short forms too.
    if _NUMBER.fullmatch(labels[-1]) and (host != text or not _is_dotted_quad(host)):
        raise ForbiddenReference(f"{text!r} is an unusual spelling of an address; write four decimal numbers")
    return host


def parse_literal(host: str) -> Address | None:
    """Return the address that ``host`` (normalised) is, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _scheme_message(scheme: str, schemes: frozenset[str]) -> str:
    return f"{scheme[:32]!r} addresses are not opened here; use one of {', '.join(sorted(schemes))}"


def _parse_userinfo(userinfo: str) -> tuple[str | None, str | None]:
    name, colon, secret = userinfo.partition(":")
    username, password = unquote(name), unquote(secret)
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in username + password):
        raise InvalidInput("user and password hold no control characters")
    return username, password if colon else None


def _split_port(host_port: str) -> tuple[str, str]:
    if host_port.startswith("["):
        host, bracket, rest = host_port.partition("]")
        if rest and not rest.startswith(":"):
            raise InvalidInput("only a port may follow an IPv6 address")
        return host + bracket, rest[1:]
    host, _, port = host_port.partition(":")
    return host, port


def _parse_port(text: str) -> int:
    if not text.isascii() or not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise InvalidInput("a port is a number from 1 to 65535")
    return int(text)


def _parse_v6(text: str) -> str:
    if "%" in text:
        raise ForbiddenReference("addresses with a zone id are not opened")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise InvalidInput("what stands in the brackets is no IPv6 address") from None


def _is_dotted_quad(host: str) -> bool:
    return _DOTTED_QUAD.fullmatch(host) is not None and all(int(part) <= 255 for part in host.split("."))


def _to_ascii(text: str) -> str:
    try:
        return idna.encode(text, uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        raise InvalidInput(f"{text!r} is no host name") from None


def _parse_allowed(entry: str) -> _Allowed:
    text = entry.strip()
    try:
        return _Allowed(ipaddress.ip_network(text, strict=False), None, None)
    except ValueError:
        pass
    try:
        host_text, port_text = _split_port(text)
        port = _parse_port(port_text) if port_text else None
        host = normalize_host(host_text)
        literal = parse_literal(host)
        if literal is not None:
            return _Allowed(ipaddress.ip_network(str(literal)), None, port)
        return _Allowed(None, host, port)
    except InvalidInput as error:
        message = f"ALLOW_PRIVATE_SOURCES: {entry!r} is no network, address or host name ({error.message})"
        raise ConfigurationError(message) from None
