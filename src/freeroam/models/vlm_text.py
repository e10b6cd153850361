"""From token numbers to text as it is spoken: nothing broken is shown, and nothing of a text that ends the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes of the longest character of UTF-8, so tokens of the longest one that is still coming."""
_WINDOW = 64


class SpokenText:
    """The text of one answer, token by token.

    A tokenizer joins the tokens of a word or a character only when it decodes them together, so the last few are
    decoded again with every new one, and what has been shown is skipped.

    Args:
        tokenizer: Of the model.
        stop: Texts that end the answer; neither they nor what follows is shown.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._tokens: list[int] = []
        self._first = 0
        self._shown = 0
        self._held = ""
        self.has_stopped = False

    def add(self, token: int) -> str:
        """Take one token and return the text that can be shown now; empty if it must be held back still."""
        self._tokens.append(token)
        text = self._decoded()
        broken = len(text) - len(text.rstrip(_BROKEN))
        ready = len(text) - min(broken, _LONGEST_CHARACTER - 1)
        new = text[self._shown : ready] if ready > self._shown else ""
        self._shown = max(self._shown, ready)
        if not broken or len(self._tokens) - self._first > _WINDOW:
            self._move_window(len(text) - self._shown)
        return self._before_stop(new)

    def end(self) -> str:
        """Return what was held back, for no more will come."""
        rest = self._before_stop(self._decoded()[self._shown :])
        held, self._held = self._held, ""
        return rest if self.has_stopped else rest + held

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(
            self._tokens[self._first :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _move_window(self, not_shown: int) -> None:
        """Forget all but the last few tokens, so that a long answer costs no more a token than a short one."""
        self._first = max(self._first, len(self._tokens) - 2 * _LONGEST_CHARACTER)
        self._shown = len(self._decoded()) - not_shown

    def _before_stop(self, new: str) -> str:
        if not self._stop or self.has_stopped:
            return "" if self.has_stopped else new
        text = self._held + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` begin ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
