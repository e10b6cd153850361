"""Which addresses may be opened."""

import ipaddress
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.security.url_policy import HTTP_SCHEMES, UrlPolicy, forbidden_reason, parse_target
from freeroam.vocabulary.errors import ConfigurationError, ForbiddenReference, InvalidInput

FORBIDDEN_ADDRESSES = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2a00:1450:4001:80b:0:5efe:7f00:1",
    "2a00:1450:4001:80b:200:5efe:a00:1",
    "4000::1",
]


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_an_address_that_is_not_public_is_refused_however_it_is_reached(address):
    policy = UrlPolicy()
    literal = ipaddress.ip_address(address)
    host = f"[{address}]" if literal.version == 6 else address

    with pytest.raises(ForbiddenReference):
        policy.check_address("camera.example.org", address)
    with pytest.raises(ForbiddenReference):
        policy.check_text(f"http://{host}/a.m3u8")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"]
)
def test_a_public_address_passes(address):
    UrlPolicy().check_address("camera.example.org", address)


@given(st.integers(0, 2**32 - 1))
def test_no_address_that_python_calls_private_passes(number):
    address = ipaddress.IPv4Address(number)

    if not address.is_global or address.is_multicast:
        assert forbidden_reason(address) is not None
        assert forbidden_reason(ipaddress.IPv6Address((0x64FF9B << 96) | number)) is not None


@given(st.integers(0, 2**128 - 1))
def test_no_ipv6_address_that_python_calls_private_passes(number):
    address = ipaddress.IPv6Address(number)

    if not address.is_global or address.is_multicast:
        assert forbidden_reason(address) is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://127.0.0.1./",
        "http://127.0.0.01/",
        "http://0/",
        "http://0x/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://example.0x7f/",
        "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
        "http://127\u30020\u30020\u30021/",
        "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://a.localhost/",
        "http://\uff4cocalhost/",
        "http://user@127.0.0.1/",
        "http://example.org@127.0.0.1/",
        "http://example.org:80@127.0.0.1/",
        "http://example.org%2f@127.0.0.1/",
        "http://127.0.0.1\\@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://[::1%25lo]/",
        "http://[fe80::1%25eth0]/",
        "http://[::ffff:7f00:1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "gopher://example.org/",
        "ftp://example.org/a.ts",
        "concat:http://example.org/a|b",
        "data:text/plain,hello",
        "javascript:alert(1)",
        "tcp://example.org:80",
        "unix:///var/run/docker.sock",
    ],
)
def test_a_disguised_or_foreign_reference_is_refused_by_its_text(url):
    with pytest.raises(ForbiddenReference):
        UrlPolicy().check_text(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http:",
        "http:/example.org",
        "http://",
        "http:///a",
        "http://:80/",
        "http://exa mple.org/",
        "http://example.org/\r\nHost: other",
        "http://example.org/\x00",
        "http://example.org\t/",
        "http://exam%70le.org/",
        "http://example..org/",
        "http://-example.org/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org:\uff18\uff10/",
        "http://example.org:80:80/",
        "http://example.org:+80/",
        "http://[::1/",
        "http://[::1]a/",
        "http://[hello]/",
        "http://u:p%0d%0aX@example.org/",
        "//example.org/a",
        "http://" + "a" * 300 + ".org/",
        "http://example.org/" + "a" * 9000,
    ],
)
def test_a_malformed_reference_is_refused(url):
    with pytest.raises(InvalidInput):
        UrlPolicy().check_text(url)


def test_a_reference_is_taken_apart():
    target = parse_target("HTTPS://us%40er:pa%3Ass@Ex%41mple.org".replace("%41", "a") + ":8443/a/b?c=d#e")

    assert target.origin == ("https", "example.org", 8443)
    assert (target.username, target.password) == ("us@er", "pa:ss")
    assert target.path == "/a/b?c=d"
    assert target.url == "https://example.org:8443/a/b?c=d"
    assert "pa:ss" not in target.shown


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://example.org", "example.org", 80, "/"),
        ("http://example.org?a", "example.org", 80, "/?a"),
        ("rtsp://cam_1.example.org:8554/x", "cam_1.example.org", 8554, "/x"),
        ("rtsps://example.org./", "example.org", 322, "/"),
        ("http://münchen.example/", "xn--mnchen-3ya.example", 80, "/"),
        ("http://[2606:4700:0:0::1111]:81/", "2606:4700::1111", 81, "/"),
        ("redis://example.org/0/key", "example.org", 6379, "/0/key"),
        ("rtsp://admin:p@ss@example.org/", "example.org", 554, "/"),
    ],
)
def test_hosts_and_ports_are_brought_into_one_form(url, host, port, path):
    target = UrlPolicy().check_text(url)

    assert (target.host, target.port, target.path) == (host, port, path)


def test_only_the_schemes_of_the_caller_pass():
    with pytest.raises(ForbiddenReference):
        UrlPolicy().check_text("rtsp://example.org/", HTTP_SCHEMES)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port"),
    [
        ("192.168.1.0/24", "192.168.1.7", "192.168.1.7", 80),
        ("192.168.1.0/24", "cam.example.org", "192.168.1.7", 80),
        ("192.168.1.7", "192.168.1.7", "192.168.1.7", 554),
        ("cam1.local", "cam1.local", "192.168.1.7", 554),
        ("CAM1.local.", "cam1.local", "10.1.1.1", 554),
        ("127.0.0.1:8554", "127.0.0.1", "127.0.0.1", 8554),
        ("fd12::/16", "fd12::1", "fd12::1", 80),
        ("[fd12::1]:80", "fd12::1", "fd12::1", 80),
        ("169.254.169.254", "169.254.169.254", "169.254.169.254", 80),
        ("localhost", "localhost", "127.0.0.1", 80),
    ],
)
def test_what_is_listed_may_be_opened(entry, host, address, port):
    UrlPolicy((entry,)).check_address(host, address, port)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port"),
    [
        ("192.168.1.0/24", "192.168.2.7", "192.168.2.7", 80),
        ("cam1.local", "cam2.local", "192.168.1.7", 80),
        ("cam1.local", "192.168.1.7", "192.168.1.7", 80),
        ("cam1.local", "cam1.local", "169.254.169.254", 80),
        ("cam1.local", "cam1.local", "0.0.0.0", 80),
        ("cam1.local", "cam1.local", "224.0.0.1", 80),
        ("cam1.local", "cam1.local", "::ffff:10.0.0.1", 80),
        ("127.0.0.1:8554", "127.0.0.1", "127.0.0.1", 8555),
        ("169.254.0.0/16", "169.254.169.254", "169.254.169.254", 80),
        ("0.0.0.0/0", "100.100.100.200", "100.100.100.200", 80),
        ("0.0.0.0/0", "0.0.0.0", "0.0.0.0", 80),
        ("::/0", "fd00:ec2::254", "fd00:ec2::254", 80),
    ],
)
def test_what_is_not_listed_stays_forbidden(entry, host, address, port):
    with pytest.raises(ForbiddenReference):
        UrlPolicy((entry,)).check_address(host, address, port)


@pytest.mark.parametrize("entry", ["http://cam1/", "192.168.1.0/40", "a b", "cam1:port", "0x7f.1", "*"])
def test_an_entry_that_means_nothing_is_refused_with_the_settings_name(entry):
    with pytest.raises(ConfigurationError, match="ALLOW_PRIVATE_SOURCES"):
        UrlPolicy((entry,))


def test_a_zone_id_changes_nothing():
    with pytest.raises(ForbiddenReference):
        UrlPolicy().check_address("cam.local", "fe80::1%eth0")


@given(st.text(max_size=60))
def test_no_text_makes_the_policy_fail_in_another_way(text):
    for url in (text, f"http://{text}", f"http://{text}/a"):
        with suppress(InvalidInput):
            UrlPolicy().check_text(url)
