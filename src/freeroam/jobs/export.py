"""Writes all results of a job as JSON, JSON lines or CSV, a page at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import orjson

from freeroam.store.store import Store
from freeroam.vocabulary.errors import InvalidInput

FORMATS = ("json", "jsonl", "csv")
PAGE = 500
COLUMNS = (
    "id",
    "timestamp",
    "stream_time",
    "frame_ids",
    "label",
    "confidence",
    "x1",
    "y1",
    "x2",
    "y2",
    "text",
    "error",
    "model",
    "model_version",
    "prompt",
    "prompt_version",
)


def check_format(name: str) -> str:
    """Return ``name`` if it is a format.

    Raises:
        InvalidInput: It is none.
    """
    if name not in FORMATS:
        raise InvalidInput(f"format {name!r} is unknown; use one of: {', '.join(FORMATS)}")
    return name


async def export_results(store: Store, job_id: str, name: str) -> AsyncIterator[bytes]:
    """Give all results of a job, oldest first, in pieces; only one page is in memory.

    Args:
        store: Read page by page, so nothing is held while a slow reader takes its time.
        job_id: The job.
        name: ``json`` (one object), ``jsonl`` (a result a line) or ``csv`` (a line a prediction; a result without one
            has a line too).
    """
    if name == "json":
        yield b'{"job_id":%s,"results":[' % orjson.dumps(job_id)
    elif name == "csv":
        yield _csv([list(COLUMNS)])
    last, is_first = 0, True
    while page := await store.results_after(job_id, last, PAGE):
        last = page[-1][0]
        bodies = [body for _, body in page]
        if name == "csv":
            yield _csv([row for body in bodies for row in _rows(orjson.loads(body))])
        elif name == "jsonl":
            yield b"\n".join(bodies) + b"\n"
        else:
            yield (b"" if is_first else b",") + b",".join(bodies)
        is_first = False
    if name == "json":
        yield b"]}"


def _rows(result: dict[str, Any]) -> list[list[Any]]:
    metadata = result["metadata"]
    before = [result["id"], metadata["timestamp"], metadata["stream_time"], " ".join(metadata["frame_ids"])]
    error = result["error"]["code"] if result["error"] else ""
    after = [
        _inert(result["text"]),
        error,
        metadata["model"],
        metadata["model_version"],
        _inert(metadata["prompt"]),
        metadata["prompt_version"],
    ]
    empty: list[dict[str, Any]] = [{}]
    return [
        [
            *before,
            _inert(prediction.get("label")),
            prediction.get("confidence", ""),
            *(prediction.get("bbox") or ["", "", "", ""])[:4],
            *after,
        ]
        for prediction in result["predictions"] or empty
    ]


def _inert(text: str | None) -> str:
    """Return ``text`` so that no spreadsheet takes it for a formula (OWASP, "CSV Injection")."""
    if not text:
        return ""
    return f"'{text}" if text[0] in "=+-@\t\r" else text


def _csv(rows: list[list[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()
