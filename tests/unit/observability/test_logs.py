"""Log lines: one form, other libraries' among them, and no credential in any."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from freeroam.observability.logs import LineFormatter, configure_logs, get_logger


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("freeroam")
    handlers, levels = list(root.handlers), (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    logging.getLogger("uvicorn.access").disabled = False


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_event_with_fields() -> None:
    # Given JSON lines
    stream = io.StringIO()
    configure_logs("INFO", "json", stream)

    # When something is logged
    get_logger("freeroam.a").info("source_opened", kind="hls", size=[1, 2])
    get_logger("freeroam.a").debug("not_shown")

    # Then the line holds it with time, level and logger
    (line,) = lines(stream)
    assert (line["event"], line["kind"], line["size"]) == ("source_opened", "hls", [1, 2])
    assert (line["level"], line["logger"]) == ("info", "freeroam.a")
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_credential_reaches_a_line(log_format: str) -> None:
    # Given lines of either form
    stream = io.StringIO()
    configure_logs("DEBUG", log_format, stream)  # type: ignore[arg-type]
    log = get_logger("freeroam.a")

    # When credentials are logged in every way
    secret = "rtsp://admin:hunter2@cam/?token=hunter2"
    log.info("opened", ref=secret, headers={"Authorization": "Bearer hunter2"}, password="hunter2")
    log.info(secret)
    logging.getLogger("uvicorn.error").warning("lost %s", secret)
    logging.getLogger("some.library").info("GET %s", secret)
    try:
        raise ValueError(secret)
    except ValueError as error:
        log.exception("failed", error=error)

    # Then none is shown
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("cam") >= 6


def test_other_libraries_lines_have_the_same_form() -> None:
    # Given JSON lines, when another library logs, then its line is JSON too
    stream = io.StringIO()
    configure_logs("INFO", "json", stream)
    logging.getLogger("uvicorn.error").warning("100%% of %s", "it")
    assert lines(stream)[0]["event"] == "100% of it"


def test_configuring_again_replaces_the_form() -> None:
    # Given logs that were configured twice, then each line is written once
    first, second = io.StringIO(), io.StringIO()
    configure_logs("INFO", "json", first)
    configure_logs("INFO", "json", second)
    get_logger("freeroam.a").info("once")
    assert (first.getvalue(), len(lines(second))) == ("", 1)


def test_a_program_that_embeds_us_gets_a_readable_and_safe_message(caplog: pytest.LogCaptureFixture) -> None:
    # Given no configuration of ours
    # When something is logged
    with caplog.at_level(logging.INFO, logger="freeroam.a"):
        get_logger("freeroam.a").warning("opened", ref="rtsp://a:hunter2@b/", share="5%")

    # Then any handler can print it
    (record,) = caplog.records
    assert record.getMessage() == "opened ref='rtsp://***@b/' share='5%'"


def test_what_json_cannot_say_is_said_as_text() -> None:
    # Given fields of strange types, then the line is still written
    stream = io.StringIO()
    configure_logs("INFO", "json", stream)
    get_logger("freeroam.a").info("odd", raw=b"\xff", kind=LineFormatter, big=2**70)
    get_logger("freeroam.a").info("half", text="\ud800")
    assert [line["event"] for line in lines(stream)] == ["odd", "half"]
