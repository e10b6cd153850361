"""Who is local is decided by what cannot be forged."""

from __future__ import annotations

import ipaddress

import pytest

from freeroam.security.origin import find_origin, names_this_machine, parse_address, speaks_for_a_foreign_page

PROXY = (ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("10.0.0.0/8"))


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", None])
def test_a_loopback_peer_is_local(peer: str | None) -> None:
    # Given a peer of this machine and no forwarding, then it is local
    assert find_origin(peer, {}, ()).is_local


@pytest.mark.parametrize("peer", ["192.168.1.5", "10.0.0.1", "2001:db8::1", "::ffff:8.8.8.8", "nonsense"])
def test_any_other_peer_is_not(peer: str) -> None:
    # Given a peer elsewhere, then it is not local, even if it is a trusted proxy
    assert not find_origin(peer, {}, ()).is_local
    assert not find_origin(peer, {}, PROXY).is_local


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-for": "203.0.113.9"},
        {"forwarded": "for=127.0.0.1"},
        {"x-real-ip": "127.0.0.1"},
        {"via": "1.1 somebody"},
        {"cf-connecting-ip": "127.0.0.1"},
        {"x-forwarded-host": "localhost"},
        {"x-forwarded-for": ""},
    ],
)
def test_a_forwarded_request_of_an_untrusted_loopback_peer_is_not_local(headers: dict[str, str]) -> None:
    # Given a proxy on this machine that nobody declared, then what it forwards is not local, whatever it says
    assert not find_origin("127.0.0.1", headers, ()).is_local


@pytest.mark.parametrize(
    ("headers", "address", "is_local"),
    [
        ({"x-forwarded-for": "127.0.0.1"}, "127.0.0.1", True),
        ({"x-forwarded-for": "203.0.113.9"}, "203.0.113.9", False),
        ({"x-forwarded-for": "127.0.0.1, 203.0.113.9"}, "203.0.113.9", False),
        ({"x-forwarded-for": "127.0.0.1, 203.0.113.9, 10.1.2.3"}, "203.0.113.9", False),
        ({"x-forwarded-for": "203.0.113.9,127.0.0.1"}, "203.0.113.9", False),
        ({"x-forwarded-for": "unknown"}, None, False),
        ({"x-forwarded-for": "[::1]:4711"}, "::1", True),
        ({"x-forwarded-for": "203.0.113.9:80"}, "203.0.113.9", False),
        ({"forwarded": 'for="[2001:db8::7]:80";proto=https, for=10.0.0.3'}, "2001:db8::7", False),
        ({"forwarded": "for=_hidden"}, None, False),
        ({"x-real-ip": "203.0.113.9"}, "203.0.113.9", False),
        ({"via": "1.1 proxy"}, None, False),
    ],
)
def test_behind_trusted_proxies_the_first_stranger_from_the_right_counts(
    headers: dict[str, str], address: str | None, is_local: bool
) -> None:
    # Given trusted proxies, when a request comes through them
    origin = find_origin("127.0.0.1", headers, PROXY)

    # Then what strangers wrote further left is not believed
    assert (str(origin.address) if origin.address else None, origin.is_local) == (address, is_local)


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.0.2", {"x-forwarded-for": "127.0.0.1"}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1, 10.0.0.2"}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1", "forwarded": "for=203.0.113.9"}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1", "x-real-ip": "203.0.113.9"}),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1", "x-forwarded-for": ""}),
    ],
)
def test_the_loopback_of_another_machine_or_what_a_header_contradicts_is_not_local(
    peer: str, headers: dict[str, str]
) -> None:
    # Given a request that passed another machine, or whose headers disagree, then it is not of this machine
    assert not find_origin(peer, headers, PROXY).is_local


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("127.0.0.1:8000", True),
        ("127.1.2.3", True),
        ("[::1]:8000", True),
        ("camera-box", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.2", False),
        ("", False),
    ],
)
def test_a_rebound_name_is_not_this_machine(host: str, is_ours: bool) -> None:
    # Given a Host header, then only names of this machine pass
    assert names_this_machine(host, ("camera-box",)) is is_ours


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),
        ({"origin": "http://localhost:8000", "host": "localhost:8000"}, False),
        ({"origin": "https://app.example", "host": "localhost:8000"}, False),
        ({"origin": "http://evil.example", "host": "localhost:8000"}, True),
        ({"origin": "http://localhost:9999", "host": "localhost:8000"}, True),
        ({"origin": "null", "host": "localhost:8000"}, True),
        ({"origin": "http://[", "host": "localhost:8000"}, True),
        ({"sec-fetch-site": "cross-site", "host": "localhost:8000"}, True),
        ({"sec-fetch-site": "same-origin", "host": "localhost:8000"}, False),
        ({"sec-fetch-site": "none"}, False),
    ],
)
def test_a_foreign_page_gives_itself_away(headers: dict[str, str], is_foreign: bool) -> None:
    # Given what a browser sends, then pages of other origins are noticed
    assert speaks_for_a_foreign_page(headers, ("https://app.example",)) is is_foreign


def test_addresses_of_one_ipv6_network_count_as_one_client() -> None:
    # Given two addresses of one /64 and one of another
    first, second = find_origin("2001:db8::1", {}, ()), find_origin("2001:db8::ffff:2", {}, ())

    # Then the first two are one client
    assert first.client == second.client != find_origin("2001:db8:0:1::1", {}, ()).client


def test_ports_brackets_and_zones_are_taken_off() -> None:
    # Given addresses as headers write them, then they are understood
    assert str(parse_address('"[fe80::1%eth0]:80"')) == "fe80::1"
    assert parse_address("not an address") is None
