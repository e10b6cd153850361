"""The script that reads an answer as it is spoken, and accounts for every token of it."""

from __future__ import annotations

import orjson

from freeroam.client.events import EventReader, ServerEvent
from freeroam.client.refusals import told_error
from freeroam.client.steps import Give, Lost, Read, Request, Retries, StreamScript, document_of, failure, opening
from freeroam.vocabulary.errors import FreeroamError, ModelError
from freeroam.vocabulary.model_calls import InferDone, InferToken


def listen(request: Request, retries: Retries) -> StreamScript[InferToken | InferDone]:
    """Give an answer piece by piece, then how it ended; asked again only before its first piece.

    Raises:
        FreeroamError: It was refused, failed, broke off, or lacks a token.
    """
    yield from opening(request, retries)
    reader, count = EventReader(), 0
    while True:
        data = yield Read()
        if not isinstance(data, bytes) or not data:
            lost = data if isinstance(data, Lost) else Lost("the server ended it without saying how it ended")
            error = failure(request, lost)
            error.add_note(f"{count} tokens had come")
            raise error
        for event in reader.feed(data):
            if event.kind == "done":
                yield Give(document_of(InferDone, event.data))
                yield Read()  # the end of the body, so that the connection can be used again
                return
            if event.kind == "message":
                token = _token(event, count)
                count = token.index + token.count
                yield Give(token)
            elif event.kind == "error":
                raise _failure(event)


def _token(event: ServerEvent, expected: int) -> InferToken:
    token = document_of(InferToken, event.data)
    if token.index != expected:
        raise FreeroamError(
            f"The server tells token {token.index} where {expected} is the next", code="token_out_of_order"
        )
    return token


def _failure(event: ServerEvent) -> FreeroamError:
    try:
        told = orjson.loads(event.data)
        return told_error(str(told["error"]), told.get("detail"), ModelError)
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return ModelError(f"The answer broke off: {event.data[:200]!r}")
