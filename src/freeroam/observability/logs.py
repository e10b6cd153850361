"""Log lines: an event word with fields, as JSON or text, free of credentials; other libraries' lines among them."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import IO, Any, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from freeroam.security.redaction import redact_text, redact_value

LogFormat = Literal["json", "text"]
Logger = structlog.stdlib.BoundLogger

_FIELDS = "freeroam_fields"
_IS_CLEAN = "freeroam_is_clean"
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


class LineLog:
    """Writes lines of one event whose fields hold no secret by the way they are made, and so are not searched for one.

    What a caller wrote must have passed ``redact_text`` before; searching each field of each request costs more than
    answering it.

    Args:
        name: Of the standard library's logger that the lines go through.
        event: The event word.
    """

    def __init__(self, name: str, event: str) -> None:
        self._name = name
        self._event = event
        self._logger = logging.getLogger(name)

    def write(self, level: int, fields: EventDict, epoch_s: float) -> None:
        """Write one line, if lines of that level are wanted.

        Args:
            level: Of the standard library.
            fields: Free of secrets.
            epoch_s: Seconds since 1970, now.
        """
        if not self._logger.isEnabledFor(level):
            return
        own = _only_ours(self._logger)
        if own is not None:
            own.write_line(level, self._name, self._event, fields, epoch_s)
            return
        fields = {"event": self._event, **fields}
        record = logging.LogRecord(self._name, level, "", 0, _Message(fields), None, None)
        record.__dict__[_FIELDS] = fields
        record.__dict__[_IS_CLEAN] = True
        self._logger.handle(record)


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
    line_handler = _LineWriter(target, LineFormatter(chosen, colors=chosen == "text" and target.isatty()))
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
        self._second = -1
        self._moment = ""
        self._renderer = None if log_format == "json" else structlog.dev.ConsoleRenderer(colors=colors)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``, without a newline at its end."""
        fields = self.head(record.levelname, record.name, record.created)
        own = getattr(record, _FIELDS, None)
        if own is not None and getattr(record, _IS_CLEAN, False):
            fields.update(own)
        else:
            fields.update(redact_value(own) if own is not None else {"event": redact_text(record.getMessage())})
        if record.exc_info:
            fields["exception"] = redact_text(self.formatException(record.exc_info))
        return self.line(fields)

    def head(self, level: str, name: str, epoch_s: float) -> EventDict:
        """Return the fields that every line begins with."""
        second, milliseconds = divmod(int(epoch_s * 1000.0), 1000)
        if second != self._second:
            self._second = second
            self._moment = datetime.fromtimestamp(second, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return {"timestamp": f"{self._moment}.{milliseconds:03d}Z", "level": level.lower(), "logger": name}

    def line(self, fields: EventDict) -> str:
        """Return redacted fields as one line."""
        if self._renderer is None:
            return _to_json(fields)
        return str(self._renderer(None, fields["level"], fields))


class _LineWriter(logging.StreamHandler[IO[str]]):
    """Writes lines; those of ``LineLog`` without the making of a record, which costs more than the line."""

    def __init__(self, stream: IO[str], formatter: LineFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._lines = formatter
        self._waiting: list[str] = []

    def write_line(self, level: int, name: str, event: str, fields: EventDict, epoch_s: float) -> None:
        """Write one line of clean fields; lines of one turn of an event loop are written together, in order."""
        line = self._lines.head(logging.getLevelName(level), name, epoch_s)
        line["event"] = event
        line.update(fields)
        self._waiting.append(self._lines.line(line))
        if len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # nobody turns a loop here
                self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after the lines that came before it."""
        self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write the lines that wait."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            with self.lock or nullcontext(), suppress(OSError):  # a reader of our log that went away stops no request
                self.stream.write("\n".join(waiting) + "\n")
        super().flush()


def _only_ours(logger: logging.Logger) -> _LineWriter | None:
    """Return the handler of ``configure_logs`` if nobody else, on the way up from ``logger``, would get its lines."""
    level: logging.Logger | None = logger
    while level is not None and level.parent is not None:
        if level.handlers or level.filters or not level.propagate:
            return None
        level = level.parent
    handlers = logging.root.handlers
    if len(handlers) == 1 and type(handlers[0]) is _LineWriter:
        return handlers[0]
    return None


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
