"""From tokens to text as it is spoken: no half character, nothing taken back, nothing of what ends the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"


class SpokenText:
    """The text of one answer, token by token; all that it gives joined is what the tokens decode to at once.

    A tokenizer joins the bytes of a character, and the pieces of a word, only when it decodes them together. So tokens
    are decoded from the last place on where nothing was broken, and what has been shown is skipped. Every broken
    character at the end is held back: where characters are spelled in bytes, some tokenizers show a run of them broken
    from its first byte on until the last has come.

    Args:
        tokenizer: The model's.
        stop: Texts that end the answer; neither they nor what follows is shown. Empty ones are passed over.
        before: The last tokens of the prompt if the answer goes on with its very word, so that a space between the two
            is kept; none if the answer stands for itself.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._tokens = list(before)
        self._shown = len(self._decoded()) if before else 0
        self._whole = len(self._tokens)
        self._held = ""
        self.has_stopped = False

    def add(self, token: int) -> str:
        """Take one token and return the text that can be shown now; empty if it shows nothing yet."""
        self._tokens.append(token)
        text = self._decoded()
        ready = len(text.rstrip(_BROKEN))
        new = text[self._shown : ready]
        self._shown = max(self._shown, ready)
        if ready == len(text):
            # What came before this token and the one before it can change nothing that follows.
            del self._tokens[: self._whole]
            self._whole = len(self._tokens)
            self._shown = len(self._decoded())
        return self._before_stop(new)

    def end(self) -> str:
        """Return what was held back, for no more will come."""
        rest = self._before_stop(self._decoded()[self._shown :])
        self._shown = len(self._decoded())
        held, self._held = self._held, ""
        return rest if self.has_stopped else rest + held

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

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
