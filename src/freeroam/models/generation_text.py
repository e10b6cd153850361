"""From tokens to text as it is spoken: no half character, nothing taken back, nothing of what ends the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"
_LETTER = "a"


class SpokenText:
    """The text of one answer, token by token; joined it is what the tokens decode to at once.

    A tokenizer joins the bytes of a character, and the pieces of a word, only when it decodes them together. So tokens
    are decoded from the last place on where nothing was broken. Before them stands a letter that is cut off again:
    some tokenizers drop a space that a text begins with. Every broken character at the end is held back: where
    characters are spelled in bytes, some tokenizers show a run of them broken from its first byte on until the last
    has come; for that reason too nothing of what was shown is decoded again.

    Args:
        tokenizer: The model's.
        stop: Texts that end the answer; neither they nor what follows is shown. Empty ones are passed over.
        goes_on: Whether the answer goes on with the prompt's very word, so that a space it begins with is kept.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, goes_on: bool = False) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._letter: list[int] = tokenizer(_LETTER, add_special_tokens=False)["input_ids"]
        self._has_begun = goes_on
        self._tokens: list[int] = []
        self._shown = 0
        self._held = ""
        self.has_stopped = False

    def add(self, token: int) -> str:
        """Take one token and return the text that can be shown now; empty if it shows nothing yet."""
        self._tokens.append(token)
        text = self._decoded()
        ready = len(text.rstrip(_BROKEN))
        new = text[self._shown : ready]
        self._shown = max(self._shown, ready)
        if text and ready == len(text):
            self._tokens.clear()
            self._shown = 0
            self._has_begun = True
        return self._before_stop(new)

    def end(self) -> str:
        """Return what was held back, for no more will come."""
        rest = self._before_stop(self._decoded()[self._shown :])
        self._tokens.clear()
        self._shown = 0
        held, self._held = self._held, ""
        return rest if self.has_stopped else rest + held

    def _decoded(self) -> str:
        if not self._tokens:
            return ""
        before = self._letter if self._has_begun else []
        text: str = self._tokenizer.decode(
            [*before, *self._tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.removeprefix(_LETTER) if before else text

    def _before_stop(self, new: str) -> str:
        if not self._stop or self.has_stopped:
            return "" if self.has_stopped else new
        text = self._held + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` begin ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
