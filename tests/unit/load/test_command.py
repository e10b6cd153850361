"""The options of the command become a plan, or a message that names the option."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path

import pytest

from freeroam.load.command import add_bench, plan_of
from freeroam.load.plan import Plan
from freeroam.load.run import target_of
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import Priority


def plan(*words: str) -> Plan:
    parser = argparse.ArgumentParser()
    add_bench(parser.add_subparsers())
    return plan_of(parser.parse_args(["bench", *words]))


def test_without_options_ten_seconds_are_asked_in_a_closed_loop() -> None:
    # Given no option, when a plan is made, then it is the one that the documentation tells
    made = plan()
    assert (made.door, made.concurrency, made.rate_per_s, made.duration_s, made.requests) == (
        "infer",
        32,
        None,
        10.0,
        None,
    )
    assert (made.is_streamed, made.priorities, len(made.wordings)) == (True, None, 1)


def test_options_become_a_plan(tmp_path: Path) -> None:
    # Given many options, when a plan is made, then each is in it
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    made = plan("-r", "50", "--pace", "even", "-n", "100", "--priority", "LOW", "--image", str(picture), "--no-stream")
    assert (made.rate_per_s, made.pace, made.requests, made.duration_s, made.concurrency) == (
        50.0,
        "even",
        100,
        None,
        1024,
    )
    assert made.priorities == {Priority.LOW: 1.0}
    assert made.images == [f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"]
    assert not made.is_streamed


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-c", "0"], "--concurrency"),
        (["-r", "-1"], "--rate"),
        (["-r", "nan"], "--rate"),
        (["-d", "0"], "--duration"),
        (["-d", "inf"], "--duration"),
        (["-n", "0"], "--requests"),
        (["-n", "5", "-d", "5"], "--duration and --requests"),
        (["--warmup", "-1"], "--warmup"),
        (["--max-error-rate", "2"], "--max-error-rate"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--door", "openai"], "--model"),
        (["--prompt", "a", "--prompts", "b"], "--prompt and --prompts"),
        (["--prompts", "/nowhere/q.txt"], "--prompts"),
        (["--image", "/nowhere/a.png"], "--image"),
        (["--priority", "URGENT"], "--priority"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(words: list[str], named: str) -> None:
    # Given an option that cannot be, when a plan is made, then the message names it
    with pytest.raises(InvalidInput, match=named):
        plan(*words)


@pytest.mark.parametrize("url", ["box:8000", "ftp://box", "http://", "http://box:99999"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    # Given no address of a server, when a target is made, then it is refused
    with pytest.raises(InvalidInput, match="--url"):
        target_of(plan("--url", url), None)


def test_the_head_of_a_request_carries_key_and_path() -> None:
    # Given a server below a path, when a target is made, then the head is that of a request there
    head = target_of(plan("--url", "http://box:81/root/"), "secret").head.decode()
    assert head.startswith("POST /root/infer_stream HTTP/1.1\r\nHost: box:81\r\n")
    assert "Authorization: Bearer secret\r\n" in head

    # And a key that would break the head is refused
    with pytest.raises(InvalidInput, match="--key"):
        target_of(plan(), "a\r\nX: b")
