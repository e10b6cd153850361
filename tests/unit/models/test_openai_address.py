"""Where the server is, what lies under a root, and which key is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from freeroam.models.openai_address import lies_under, read_address, read_key
from freeroam.vocabulary.errors import ConfigurationError

KEY = "sk-very-secret-1234"


@pytest.mark.parametrize(
    ("model_path", "url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", "", "http://127.0.0.1:8000/v1"),
        ("", "https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://host/v1", "http://host/v1/", "http://host/v1"),
        (" http://[::1]:11434/v1 ", "", "http://[::1]:11434/v1"),
        ("http://gateway/a/b/v1", "", "http://gateway/a/b/v1"),
    ],
)
def test_a_base_url_is_read(model_path: str, url: str, expected: str) -> None:
    assert read_address(model_path, url) == expected


@pytest.mark.parametrize(
    ("model_path", "url", "said"),
    [
        ("", "", "neither MODEL_PATH nor the option url is set"),
        ("/models/mine", "", "expected the base url"),
        ("ftp://host/v1", "", "expected the base url"),
        ("http://", "", "expected the base url"),
        ("http://host:99999/v1", "", "expected the base url"),
        ("http://host/v1\r\nx: y", "", "expected the base url"),
        ("http://user:secret@host/v1", "", "carries no credentials"),
        ("http://host/v1?key=secret", "", "nothing may follow the path"),
        ("http://host/v1#x", "", "nothing may follow the path"),
        ("http://host/v1", "http://other/v1", "set one"),
    ],
)
def test_what_is_no_base_url_is_refused_without_its_secrets(model_path: str, url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_address(model_path, url)

    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("address", "root", "expected"),
    [
        ("http://host:8000/v1", "http://host:8000", True),
        ("http://host:8000/v1", "http://host:8000/v1/", True),
        ("http://HOST/v1", "http://host:80/", True),
        ("https://host/a/v1", "https://host/a", True),
        ("https://host/ab/v1", "https://host/a", False),
        ("http://host/v1", "https://host/v1", False),
        ("http://host:8001/v1", "http://host:8000/v1", False),
        ("http://host.evil.com/v1", "http://host/v1", False),
        ("http://host@evil.com/v1", "http://host/", False),
        ("http://host/v1/../admin", "http://host/v1", False),
        ("http://host/v1/%2e%2e/admin", "http://host/v1", False),
        ("http://host/v1\\..\\admin", "http://host/v1", False),
        ("http://host/v1?x=1", "http://host/v1", False),
        ("http://host/v1", "/models", False),
        ("/models/mine", "http://host/v1", False),
    ],
)
def test_an_address_lies_under_a_root_by_whole_segments_only(address: str, root: str, expected: bool) -> None:
    assert lies_under(address, root) is expected


@pytest.mark.parametrize("source", ["option", "variable", "default variable", "file"])
def test_the_key_comes_from_where_it_is_said_to_be(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "key").write_text(f"{KEY}\n")
    if source.endswith("variable"):
        monkeypatch.setenv("OPENAI_API_KEY" if source.startswith("default") else "OTHER", KEY)
    given = {
        "option": (KEY, "", ""),
        "variable": ("", "OTHER", ""),
        "default variable": ("", "", ""),
        "file": ("", "", str(tmp_path / "key")),
    }

    assert read_key(*given[source]) == KEY


def test_no_key_is_no_error_unless_one_was_promised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OTHER", raising=False)
    (tmp_path / "empty").touch()

    assert read_key("", "", "") == ""
    with pytest.raises(ConfigurationError, match="variable OTHER is empty"):
        read_key("", "OTHER", "")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_key("", "", str(tmp_path / "empty"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_key("", "", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="set one of"):
        read_key(KEY, "OTHER", "")


@pytest.mark.parametrize("key", [f"{KEY} x", f"{KEY}\r\nhost: evil", f"{KEY}\u00e9"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="no key has") as caught:
        read_key(key, "", "")

    assert KEY not in caught.value.message
