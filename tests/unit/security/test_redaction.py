"""Credentials leave a text wherever they stand in it, and nothing else does."""

from __future__ import annotations

import pytest

from freeroam.security.redaction import redact_text, redact_url, redact_value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@cam/1", "rtsp://***@cam/1"),
        ("rtsp://admin:p@ss@cam:554/1", "rtsp://***@cam:554/1"),
        ("rtsp://admin:pa/ss@cam/1", "rtsp://***@cam/1"),
        ("rtsp://admin:pa?ss@cam/1", "rtsp://***@cam/1"),
        ("rtsp://admin:it'shunter2@10.0.0.5/x", "rtsp://***@10.0.0.5/x"),
        ('rtsp://admin:a"hunter2@cam/x', "rtsp://***@cam/x"),
        ("rtsp://admin:<hunter2>@cam/x", "rtsp://***@cam/x"),
        ("rtsp://admin:p/a's?hunter2@cam/x", "rtsp://***@cam/x"),
        ("'rtsp://admin:it'shunter2@cam/x' is gone", "'rtsp://***@cam/x' is gone"),
        ("http://a/,http://me:hunter2@b/", "http://a/,http://***@b/"),
        ("https://h/?url=rtsp://me:hunter2@cam/1", "https://h/?url=rtsp://***@cam/1"),
        ("https://h/a?token=ab'hunter2&x=1", "https://h/a?token=***&x=1"),
        ("'https://h/a?token=ab\"<hunter2>' is gone", "'https://h/a?token=***>' is gone"),
        ("rtsp://cam/user=admin_password=a'hunter2_channel=1.sdp", "rtsp://cam/user=***_password=***_channel=1.sdp"),
        ("<rtsp://cam/pwd=a>hunter2>", "<rtsp://cam/pwd=***>"),
        ("redis://:hunter2@cache:6379/0/frames", "redis://***@cache:6379/0/frames"),
        ("https://user@host/", "https://***@host/"),
        ("https://h/a.m3u8?token=hunter2&x=1", "https://h/a.m3u8?token=***&x=1"),
        ("https://h/a?x=1&X-Amz-Signature=hunter2", "https://h/a?x=1&X-Amz-Signature=***"),
        ("https://h/a?%74oken=hunter2", "https://h/a?%74oken=***"),
        ("https://h/a#access_token=hunter2", "https://h/a#access_token=***"),
        (
            "rtsp://cam/user=admin_password=hunter_2_channel=1_stream=0.sdp",
            "rtsp://cam/user=***_password=***_channel=1_stream=0.sdp",
        ),
        ("rtsp://cam/live/pwd=hunter2/1", "rtsp://cam/live/pwd=***/1"),
        (
            "tried rtsp://a:hunter2@b/ and https://c/?sig=hunter2 twice",
            "tried rtsp://***@b/ and https://c/?sig=*** twice",
        ),
    ],
)
def test_credentials_of_an_address_are_not_shown(text: str, shown: str) -> None:
    # Given a text with credentials in it, when it is redacted, then only they are gone
    assert redact_url(text) == shown
    assert "hunter2" not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "video_frames",
        "cam:front-door",
        "demo:",
        "file:///media/a@b.mp4",
        "https://h:8080/@name/clip?width=640",
        "https://[2001:db8::1]:8443/a/@b",
        "a=1, b=2",
        "",
    ],
)
def test_what_holds_no_credential_stays_as_it_is(text: str) -> None:
    # Given a text without credentials, when it is redacted, then nothing happens
    assert redact_url(text) == text


@pytest.mark.parametrize(
    "piece", ["a", "'", "a://", "://", "//", "@", "a://'", "&a='", "/user='", "/user=_", "_a", "?", "a:"]
)
def test_a_long_text_without_spaces_is_searched_once(piece: str) -> None:
    # Given a megabyte that never ends what it begins, when it is redacted, then that is no work of minutes
    assert redact_url(f"a://a=/user=?a={piece * (1_000_000 // len(piece))}")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2hunter2",
        "authorization=Basic aHVudGVyMjpodW50ZXIy",
        "{'X-API-Key': 'hunter2'}",
        "sent Bearer hunter2hunter2 to them",
        "password=hunter2",
        '{"password": "hunter2"}',
        "Cookie: session=hunter2",
    ],
)
def test_headers_and_assignments_that_carry_a_secret_are_masked(text: str) -> None:
    # Given a log text with a secret outside a URL, when it is redacted, then the secret is gone
    shown = redact_text(text)
    assert "hunter2" not in shown
    assert "aHVudGVyMj" not in shown


def test_values_are_redacted_at_every_depth() -> None:
    # Given fields of a log line
    fields = {
        "ref": "rtsp://a:hunter2@b/",
        "headers": {"Authorization": "hunter2", "X": ["https://a:hunter2@b/", 5]},
        "password": "hunter2",
        "error": ValueError("https://a:hunter2@b/"),
        "count": 3,
    }

    # When they are redacted
    shown = redact_value(fields)

    # Then no secret is left, and numbers are untouched
    assert "hunter2" not in str(shown)
    assert shown["count"] == 3
    assert shown["headers"]["X"][1] == 5
