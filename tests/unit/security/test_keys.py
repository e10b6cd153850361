"""Keys are found by their text, never kept as text, and read from files with clear errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from freeroam.security.keys import Caller, Key, KeyRing, Right, read_keys_file
from freeroam.vocabulary.errors import ConfigurationError, Unauthenticated
from freeroam.vocabulary.inference import Priority

TEXT = "correct-horse-battery-staple"


def test_a_key_is_found_by_its_text_and_not_by_another() -> None:
    # Given two keys
    ring = KeyRing([Key.of_text("first", TEXT), Key.of_text("second", "another-long-key-text")])

    # When each text is looked up, then its own key is found
    assert ring.find(TEXT).name == "first"
    assert ring.find("another-long-key-text").name == "second"

    # And another text finds none, whatever it holds
    for wrong in ("", TEXT[:-1], TEXT + "x", "\ud800"):
        with pytest.raises(Unauthenticated):
            ring.find(wrong)


def test_a_key_does_not_show_its_text_or_digest() -> None:
    # Given a key, when it is shown, then neither its text nor its digest is
    key = Key.of_text("first", TEXT)
    assert TEXT not in repr(key)
    assert key.digest.hex() not in repr(key)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_file_gives_keys_with_their_rights_and_limits(tmp_path: Path, suffix: str) -> None:
    # Given a file with one key as text and one as digest
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    path = tmp_path / f"keys.{suffix}"
    if suffix == "json":
        entries = [
            {"name": "viewer", "sha256": digest, "rights": ["read"], "highest_priority": "LOW", "max_streams": 2},
            {"name": "robot", "key": "another-long-key-text", "rate_limit_per_minute": 5},
        ]
        path.write_text(json.dumps({"keys": entries}))
    else:
        path.write_text(
            f'[[keys]]\nname = "viewer"\nsha256 = "{digest}"\nrights = ["read"]\nhighest_priority = "LOW"\n'
            'max_streams = 2\n[[keys]]\nname = "robot"\nkey = "another-long-key-text"\nrate_limit_per_minute = 5\n'
        )

    # When it is read
    ring = KeyRing(read_keys_file(path))

    # Then each key is as the file says
    viewer, robot = ring.find(TEXT), ring.find("another-long-key-text")
    assert (viewer.rights, viewer.highest_priority, viewer.max_streams) == (frozenset({Right.READ}), Priority.LOW, 2)
    assert (robot.rights, robot.rate_limit_per_minute) == (frozenset(Right), 5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("{}", "a list named 'keys'"),
        ('{"keys": []}', "at least one"),
        ('{"keys": [{"name": "a"}]}', "either 'key' or 'sha256'"),
        ('{"keys": [{"name": "a", "key": "short-hunter2"}]}', "entry 1: key"),
        ('{"keys": [{"name": "a", "key": "long-enough-hunter2", "sha256": "00"}]}', "entry 1"),
        ('{"keys": [{"name": "a", "key": "long-enough-hunter2", "rights": ["fly"]}]}', "rights"),
        ('{"keys": [{"name": "a", "key": "long-enough-hunter2", "colour": "red"}]}', "colour"),
        (
            '{"keys": [{"name": "a", "key": "long-enough-hunter2"}, {"name": "a", "key": "long-enough-hunter2"}]}',
            "same name",
        ),
    ],
)
def test_a_wrong_file_is_explained_without_showing_a_key(tmp_path: Path, content: str, words: str) -> None:
    # Given a file with a mistake
    path = tmp_path / "keys.json"
    path.write_text(content)

    # When it is read
    with pytest.raises(ConfigurationError) as raised:
        read_keys_file(path)

    # Then the message names the setting and the mistake, and no key
    assert "API_KEYS_FILE" in raised.value.message
    assert words in raised.value.message
    assert "hunter2" not in raised.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    # Given no file, when it is read, then the message names the setting and the path
    with pytest.raises(ConfigurationError, match=r"API_KEYS_FILE=.*none\.json cannot be read"):
        read_keys_file(tmp_path / "none.json")


def test_admin_includes_every_right_and_others_only_themselves() -> None:
    # Given callers of each right, when asked, then only admin may do all
    for right in Right:
        caller = Caller("a", "c", rights=frozenset({right}))
        assert [other for other in Right if caller.may(other)] == (list(Right) if right is Right.ADMIN else [right])
