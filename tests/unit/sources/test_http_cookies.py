"""Cookies go back to the origin that set them, and nowhere else."""

from __future__ import annotations

import pytest

from freeroam.sources.http_cookies import MAX_COOKIE_CHARS, MAX_COOKIES, CookieJar

HOME = ("https", "example.org", 443)


def jar(*headers: str, path: str = "/live/a.m3u8?x=/1") -> CookieJar:
    made = CookieJar()
    made.take(HOME, path, headers)
    return made


@pytest.mark.parametrize(
    ("header", "path", "sent"),
    [
        ("a=1", "/live/b.ts", "a=1"),
        ("a=1", "/other/b.ts", ""),
        ("a=1; Path=/", "/other/b.ts?q", "a=1"),
        ("a=1; Path=/li", "/live/b.ts", ""),
        ("a=1; path=/live", "/live", "a=1"),
        ("a=1; Path=relative", "/live/b.ts", "a=1"),
        ("a=1; Domain=.org; Secure; HttpOnly; SameSite=None", "/live/b.ts", "a=1"),
        (' a="1=2" ; Max-Age=60', "/live/b.ts", 'a="1=2"'),
        ("a=; Expires=Thu, 01 Jan 2037 00:00:00 GMT", "/live/b.ts", "a="),
    ],
)
def test_a_cookie_is_sent_below_its_path(header, path, sent) -> None:
    assert jar(header).header(HOME, path) == sent


@pytest.mark.parametrize(
    "header",
    ["", "a", "=1", "a b=1", "a=1\r\nX-Evil: 1", "a=1, b=2", "a=\x00", "a=\u00e9", "a=" + "x" * MAX_COOKIE_CHARS],
)
def test_what_is_no_cookie_is_passed_over(header) -> None:
    assert jar(header).header(HOME, "/live/b.ts") == ""


@pytest.mark.parametrize(
    "other", [("http", "example.org", 80), ("https", "example.org", 8443), ("https", "cdn.example.org", 443)]
)
def test_no_other_origin_sees_a_cookie_whatever_domain_it_names(other) -> None:
    assert jar("a=1; Domain=example.org; Path=/").header(other, "/live/b.ts") == ""


@pytest.mark.parametrize(
    "again", ["a=2", "a=; Max-Age=0", "a=; Max-Age=-1", "a=; Expires=Thu, 01-Jan-1970 00:00:01 GMT"]
)
def test_a_cookie_is_changed_and_taken_back(again) -> None:
    made = jar("a=1", "b=1")
    made.take(HOME, "/live/b.m3u8", [again])

    assert made.header(HOME, "/live/b.ts") == ("b=1; a=2" if again == "a=2" else "b=1")


def test_only_so_many_are_kept() -> None:
    made = jar(*[f"c{number}=1" for number in range(MAX_COOKIES + 3)])

    sent = made.header(HOME, "/live/b.ts").split("; ")
    assert len(sent) == MAX_COOKIES
    assert sent[0] == "c3=1"
