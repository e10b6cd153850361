"""How a question is written for a door and how its answer is read, as cheaply as counting it allows."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from freeroam.load.plan import Plan, Wording
from freeroam.load.tally import Books, IndexAccount
from freeroam.vocabulary.inference import Priority


class Hearing(Protocol):
    """Reads the body of one answer of 200.

    Attributes:
        is_over: Whether the answer is complete.
        error: What was wrong with it; None if nothing is.
        tokens: That came.
        first_s: When the first piece of text came, on the clock that ``feed`` is told; 0 before.
        last_s: When the last did.
    """

    is_over: bool
    error: str | None
    tokens: int
    first_s: float
    last_s: float

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what came."""
        ...

    def close(self) -> None:
        """Take note that the body is over."""
        ...


class SpokenHearing:
    """Reads the events of an answer that is being spoken, and counts tokens and the gaps between them.

    Args:
        books: Where it is counted; looked up anew for each piece, because windows change meanwhile.
    """

    __slots__ = ("_rest", "account", "books", "error", "first_s", "is_over", "last_s", "tokens")

    def __init__(self, books: Books) -> None:
        self.books = books
        self.account = IndexAccount()
        self.is_over = False
        self.error: str | None = None
        self.tokens = 0
        self.first_s = 0.0
        self.last_s = 0.0
        self._rest = b""

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what came; events are told apart by an empty line."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                self.take(event[6:], now_s)
            else:
                self._take_lines(event, now_s)

    def _take_lines(self, event: bytes, now_s: float) -> None:
        kind, data = b"message", b""
        for line in event.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"event":
                kind = value.strip()
            elif name == b"data":
                data += value.strip()
        if kind == b"done":
            self.take_end(data)
        elif kind == b"error":
            self.error = f"event: error {_code_of(data)}".strip()
            self.is_over = True
        elif data:
            self.take(data, now_s)

    def take(self, data: bytes, now_s: float) -> None:
        """Take a piece of text: as ``/infer_stream`` tells it."""
        told = _object(data)
        if told is None or "index" not in told:
            self.error = "no piece of text"
            return
        index, count = told["index"], told.get("count", 1)
        account = self.account
        if index == account.expected:
            account.expected += count
        else:
            account.take(index, count)
        self.note(count, now_s)

    def note(self, count: int, now_s: float) -> None:
        """Count a piece of ``count`` tokens."""
        tally = self.books.window
        tally.tokens += count
        tally.pieces += 1
        if self.tokens:
            tally.times.token_gap.add((now_s - self.last_s) * 1000.0)
        else:
            self.first_s = now_s
        self.last_s = now_s
        self.tokens += count

    def take_end(self, data: bytes) -> None:
        """Take the end, which says how many tokens there were."""
        told = _object(data) or {}
        usage = told.get("usage") or {}
        self.account.close(int(usage.get("completion_tokens") or 0))
        if told.get("finish_reason") not in {"stop", "length"}:
            self.error = f"finish_reason {told.get('finish_reason')}"
        self.is_over = True

    def close(self) -> None:
        """Account for every index; an answer without an end broke off."""
        account, tally = self.account, self.books.window
        tally.missing += account.missing
        tally.doubled += account.doubled
        if self.error is None and not self.is_over:
            self.error = "broke off"
        if self.error is None and (account.missing or account.doubled):
            self.error = "index gap" if account.missing else "index doubled"


class OpenAIHearing(SpokenHearing):
    """Reads the chunks of OpenAI's API, which carry no index: tokens are those of ``usage``, else the chunks."""

    __slots__ = ("_finish",)

    def __init__(self, books: Books) -> None:
        super().__init__(books)
        self._finish: str | None = None

    def take(self, data: bytes, now_s: float) -> None:
        """Take a chunk, or ``[DONE]``."""
        if data == b"[DONE]":
            self.is_over = True
            return
        told = _object(data)
        if told is None:
            self.error = "no chunk"
            return
        if "error" in told:
            self.error = f"event: error {_code_of(data)}".strip()
            return
        for choice in told.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            if (choice.get("delta") or {}).get("content"):
                self.note(1, now_s)
        usage = told.get("usage")
        if usage and (more := int(usage.get("completion_tokens") or 0) - self.tokens) > 0:
            # Several tokens may come in one chunk; only the end tells how many.
            self.tokens += more
            self.books.window.tokens += more


class WholeHearing:
    """Reads an answer that comes in one piece."""

    __slots__ = ("_body", "_books", "error", "first_s", "is_over", "last_s", "tokens")

    def __init__(self, books: Books) -> None:
        self._books = books
        self._body = bytearray()
        self.is_over = False
        self.error: str | None = None
        self.tokens = 0
        self.first_s = 0.0
        self.last_s = 0.0

    def feed(self, data: bytes, now_s: float) -> None:  # noqa: ARG002 - as others do
        """Take what came."""
        self._body += data

    def close(self) -> None:
        """Read the answer: ours, or OpenAI's."""
        told = _object(bytes(self._body))
        if told is None or not ("text" in told or "choices" in told):
            self.error = "no answer"
            return
        self.is_over = True
        usage = told.get("usage") or {}
        self.tokens = int(usage.get("completion_tokens") or 0) or len(told.get("tokens") or ())
        self._books.window.tokens += self.tokens
        self._books.window.pieces += 1


class NativeDoor:
    """``/infer`` and ``/infer_stream``."""

    def __init__(self, plan: Plan) -> None:
        self.path = "/infer_stream" if plan.is_streamed else "/infer"
        self._plan = plan

    def body(self, wording: Wording, priority: Priority | None) -> bytes:
        """Return the JSON of a question."""
        plan = self._plan
        document = {
            "model": plan.model,
            "prompt": wording.prompt,
            "max_tokens": wording.max_tokens or plan.max_tokens,
            "temperature": plan.temperature,
            "priority": priority.name if priority is not None else None,
            "images": list(plan.images) or None,
        }
        return orjson.dumps({name: value for name, value in document.items() if value is not None})

    def hearing(self, books: Books) -> Hearing:
        """Return what reads its answer."""
        return SpokenHearing(books) if self._plan.is_streamed else WholeHearing(books)


class OpenAIDoor:
    """``/v1/chat/completions`` of any server that has it."""

    path = "/v1/chat/completions"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def body(self, wording: Wording, priority: Priority | None) -> bytes:
        """Return the JSON of a question; the level travels in ``X-Priority``."""
        del priority
        plan = self._plan
        content: Any = wording.prompt
        if plan.images:
            pictures = [{"type": "image_url", "image_url": {"url": image}} for image in plan.images]
            content = [*pictures, {"type": "text", "text": wording.prompt}]
        document = {
            "model": plan.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": wording.max_tokens or plan.max_tokens,
            "temperature": plan.temperature,
            "stream": plan.is_streamed or None,
            "stream_options": {"include_usage": True} if plan.is_streamed else None,
        }
        return orjson.dumps({name: value for name, value in document.items() if value is not None})

    def hearing(self, books: Books) -> Hearing:
        """Return what reads its answer."""
        return OpenAIHearing(books) if self._plan.is_streamed else WholeHearing(books)


def open_door(plan: Plan) -> NativeDoor | OpenAIDoor:
    """Return the door that ``plan`` asks at."""
    return OpenAIDoor(plan) if plan.door == "openai" else NativeDoor(plan)


def refusal(status: int, body: bytes) -> str:
    """Return what a refusal is counted under: its status, and its code where the body tells one."""
    return f"{status} {_code_of(body)}".strip()


def _code_of(body: bytes) -> str:
    told = _object(body) or {}
    error = told.get("error")
    detail = error if isinstance(error, dict) else told.get("detail")
    code = detail.get("code") if isinstance(detail, dict) else None
    return code[:60] if isinstance(code, str) else ""


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
