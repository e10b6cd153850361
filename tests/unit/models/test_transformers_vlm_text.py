"""Text of an answer, token by token, over tokenizers that split characters."""

from __future__ import annotations

import random

import pytest

from freeroam.models.vlm_text import SpokenText


class Bytes:
    """A tokenizer whose tokens are bytes; it decodes what is broken as a tokenizer of bytes does."""

    def decode(self, tokens, **_):
        return bytes(tokens).decode("utf-8", "replace")


class Words:
    """A tokenizer that drops the space before the first word of what it decodes, as those of SentencePiece do."""

    def __init__(self, words):
        self._words = words

    def decode(self, tokens, **_):
        return "".join(self._words[token] for token in tokens).removeprefix(" ")


def said(text: SpokenText, tokens: list[int]) -> list[str]:
    pieces = []
    for token in tokens:
        pieces.append(text.add(token))
        if text.has_stopped:
            break
    return [*pieces, text.end()]


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語 text", "😀😃 done", "a" * 300, "é" * 300])
def test_a_character_is_shown_once_it_is_whole(text):
    pieces = said(SpokenText(Bytes()), list(text.encode()))

    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
def test_broken_bytes_come_out_as_they_would_all_at_once(seed):
    tokens = random.Random(seed).choices(range(256), k=400)

    assert "".join(said(SpokenText(Bytes()), tokens)) == bytes(tokens).decode("utf-8", "replace")


def test_an_endless_run_of_broken_bytes_is_shown_while_it_comes():
    text = SpokenText(Bytes())

    pieces = [text.add(0xFF) for _ in range(1000)]

    assert len("".join(pieces)) >= 990
    assert len("".join(pieces) + text.end()) == 1000


def test_spaces_between_words_survive():
    tokenizer = Words([" one", " two", " three"])

    assert "".join(said(SpokenText(tokenizer), [0, 1, 2] * 40)) == " one two three".removeprefix(" ") + (
        " one two three" * 39
    )


@pytest.mark.parametrize(
    ("spoken", "stop", "shown"),
    [
        ("yes. no", [". "], "yes"),
        ("aab", ["ab"], "a"),
        ("one STOP two", ["STOP", "one STOP"], ""),
        ("almost STO", ["STOP"], "almost STO"),
        ("STOSTOP", ["STOP"], "STO"),
        ("no end", [""], "no end"),
        ("ende", ["e", "n"], ""),
        ("zwölf", ["ö"], "zw"),
    ],
)
def test_a_stop_text_ends_the_answer_and_is_never_shown(spoken, stop, shown):
    text = SpokenText(Bytes(), stop)

    pieces = said(text, list(spoken.encode()))

    assert "".join(pieces) == shown
    assert text.has_stopped == (shown != spoken)


def test_nothing_of_a_stop_text_is_shown_before_it_is_known_whether_it_comes():
    text = SpokenText(Bytes(), ["</answer>"])

    pieces = [text.add(byte) for byte in b"ok</ans"]

    assert "".join(pieces) == "ok"
    assert text.end() == "</ans"
