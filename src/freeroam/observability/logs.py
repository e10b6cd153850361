"""Log lines: an event word with fields, as JSON or text, free of credentials; other libraries' lines among them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO, Any, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from freeroam.security.redaction import redact_text, redact_value

LogFormat = Literal["json", "text"]
Logger = structlog.stdlib.BoundLogger

_FIELDS = "freeroam_fields"
_ROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "alembic", "sqlalchemy", "asyncio")


def get_logger(name: str) -> Logger:
    """Return the logger of a module: ``log.info("source_opened", kind="hls")``.

    Lines go through the standard library's logger of that name, so a program that embeds Freeroam decides what becomes
    of them; ``configure_logs`` is what the service calls. The global configuration of structlog is left alone.
    """
    wrapped = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            cast("Processor", _to_record),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("Logger", wrapped)


def configure_logs(level: str = "INFO", log_format: LogFormat | None = None, stream: IO[str] | None = None) -> None:
    """Send every log line of this process to ``stream`` in one form; calling it again replaces the form.

    Args:
        level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``; the libraries' own chatter stays at
            ``WARNING`` unless this is ``DEBUG``.
        log_format: None takes ``text`` on a terminal, else ``json``.
        stream: Where lines go; standard error unless said.
    """
    target = stream or sys.stderr
    chosen = log_format or ("text" if target.isatty() else "json")
    line_handler = logging.StreamHandler(target)
    line_handler.setFormatter(LineFormatter(chosen, colors=chosen == "text" and target.isatty()))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, LineFormatter):
            root.removeHandler(old)
    root.addHandler(line_handler)
    root.setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)
    logging.getLogger("freeroam").setLevel(level)
    for name in _ROUTED:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True


class LineFormatter(logging.Formatter):
    """Renders a record, ours or another library's, as one redacted line.

    Args:
        log_format: ``json`` gives one object a line with ``timestamp``, ``level``, ``logger``, ``event``.
        colors: Whether text lines carry terminal colours.
    """

    def __init__(self, log_format: LogFormat, *, colors: bool = False) -> None:
        super().__init__()
        self._renderer = None if log_format == "json" else structlog.dev.ConsoleRenderer(colors=colors)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``, without a newline at its end."""
        moment = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        fields: EventDict = {
            "timestamp": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        own = getattr(record, _FIELDS, None)
        fields.update(redact_value(own) if own is not None else {"event": redact_text(record.getMessage())})
        if record.exc_info:
            fields["exception"] = redact_text(self.formatException(record.exc_info))
        if self._renderer is None:
            return _to_json(fields)
        return str(self._renderer(None, record.levelname.lower(), fields))


class _Message:
    """What handlers that are not ours print; made only if somebody reads it."""

    __slots__ = ("_fields",)

    def __init__(self, fields: EventDict) -> None:
        self._fields = fields

    def __str__(self) -> str:
        pairs = [f"{key}={value!r}" for key, value in self._fields.items() if key != "event"]
        return redact_text(" ".join([str(self._fields.get("event", "")), *pairs]))


def _to_record(_: WrappedLogger, __: str, event_dict: EventDict) -> tuple[tuple[_Message], dict[str, Any]]:
    """Hand the fields to the standard library, with a readable message for handlers that are not ours."""
    call: dict[str, Any] = {}
    for name in ("exc_info", "stack_info"):
        if (value := event_dict.pop(name, None)) is not None:
            call[name] = value
    event_dict.pop("stacklevel", None)
    fields = {"event": event_dict.pop("event", ""), **event_dict}
    call["extra"] = {_FIELDS: fields}
    return (_Message(fields),), call


def _to_json(fields: EventDict) -> str:
    try:
        return orjson.dumps(fields, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # integers beyond 64 bits and half surrogates, which only the slow way can say
        return json.dumps({str(key): value for key, value in fields.items()}, default=_plain)


def _plain(value: Any) -> str:
    return redact_text(str(value))
