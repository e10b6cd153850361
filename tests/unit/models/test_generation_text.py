"""Text of an answer, token by token, over the two kinds of tokenizers that spell characters in bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_language_models import byte_tokenizer, piece_tokenizer, require

require("torch", "transformers")

from freeroam.models.generation_text import SpokenText  # noqa: E402

TOKENIZERS = {"bytes": byte_tokenizer(), "pieces": piece_tokenizer()}
BROKEN = "\ufffd"
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


def said(text: SpokenText, tokens: list[int]) -> list[str]:
    pieces = []
    for token in tokens:
        pieces.append(text.add(token))
        if text.has_stopped:
            return pieces
    return [*pieces, text.end()]


def decoded(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@KINDS
@pytest.mark.parametrize(
    "written",
    [
        "the cat sees a camera",
        "na\u00efve caf\u00e9",
        "\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e",
        "\U0001f600\U0001f603 the \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "a\u0301e\u0308",
        "  two  spaces  ",
    ],
)
def test_a_character_is_shown_once_it_is_whole(kind: str, written: str) -> None:
    # Given the tokens of a text, some of them parts of a character
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer(written, add_special_tokens=False)["input_ids"]

    # When they come one by one
    pieces = said(SpokenText(tokenizer), tokens)

    # Then no broken character is shown, and the pieces are the text
    assert not any(BROKEN in piece for piece in pieces)
    assert "".join(pieces) == decoded(tokenizer, tokens)
    assert "".join(pieces).strip() == written.strip()


@KINDS
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pieces_joined_are_what_the_tokens_are_at_once(kind: str, data: st.DataObject) -> None:
    # Given any tokens, broken bytes and marks of the model's own among them
    tokenizer = TOKENIZERS[kind]
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))

    pieces = said(SpokenText(tokenizer), tokens)

    # Then nothing is lost; a tokenizer that breaks the characters before a broken byte too cannot take them back
    shown, whole = "".join(pieces), decoded(tokenizer, tokens)
    if kind == "bytes" or BROKEN not in whole:
        assert shown == whole
    else:
        left = iter(shown)
        assert all(character in left for character in whole if character != BROKEN)


@KINDS
def test_a_text_that_goes_on_keeps_the_space_after_the_prompt(kind: str) -> None:
    # Given a prompt, and a continuation that begins with a space
    tokenizer = TOKENIZERS[kind]
    prompt = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    whole = tokenizer("the cat sees", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] == prompt

    # When it is spoken as what follows the prompt
    pieces = said(SpokenText(tokenizer, goes_on=True), whole[len(prompt) :])

    # Then both joined are one text
    assert "the cat" + "".join(pieces) == "the cat sees"


@KINDS
@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(st.sampled_from(["ab", "a", "b", " ", "\u00e9", "\U0001f600", "abab"]), max_size=12),
    stops=st.lists(st.sampled_from(["ab", "aba", "b ", "\u00e9", "\U0001f600a", "zz", ""]), max_size=3),
)
def test_nothing_of_a_text_that_ends_the_answer_is_shown(kind: str, words: list[str], stops: list[str]) -> None:
    # Given an answer and texts that end it
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer("".join(words), add_special_tokens=False)["input_ids"]
    text = SpokenText(tokenizer, stops)

    # When it is spoken
    shown = "".join(said(text, tokens))

    # Then it ends before the first of them that is complete, and what only began like one is shown
    whole = decoded(tokenizer, tokens)
    real = [stop for stop in stops if stop]
    ends = [len(whole[:size]) for size in range(len(whole) + 1) if any(whole[:size].endswith(stop) for stop in real)]
    assert text.has_stopped == bool(ends)
    if not ends:
        assert shown == whole
    else:
        assert not any(stop in shown for stop in real)
        assert whole.startswith(shown)
        assert any(whole.startswith(stop, len(shown)) for stop in real)


def test_what_may_still_become_a_stop_is_held_back_and_given_out_when_it_does_not() -> None:
    tokenizer = TOKENIZERS["pieces"]
    tokens = tokenizer("xabxabc", add_special_tokens=False)["input_ids"]

    pieces = said(SpokenText(tokenizer, ["abc"]), tokens)

    assert "".join(pieces) == "xabx"
    assert [piece for piece in pieces if piece] == ["x", "abx"]


@KINDS
def test_a_character_after_a_broken_byte_is_whole(kind: str) -> None:
    # Given a byte that begins no character, and then characters in bytes
    tokenizer = TOKENIZERS[kind]
    broken = tokenizer("\u65e5", add_special_tokens=False)["input_ids"][-1:]
    tokens = tokenizer("x\u65e5", add_special_tokens=False)["input_ids"]
    follows = tokenizer("x", add_special_tokens=False)["input_ids"]

    shown = "".join(said(SpokenText(tokenizer), [*tokens, *broken, *follows]))

    assert shown.strip().startswith("x\u65e5" + BROKEN)
    assert shown.endswith("x")
