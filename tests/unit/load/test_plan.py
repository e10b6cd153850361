"""When questions are due, at which level, and with which words."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from pathlib import Path

import pytest

from freeroam.load.plan import Wording, drawn_priorities, due_times_s, read_priorities, read_wordings
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import Priority


def test_an_even_pace_does_not_drift() -> None:
    # Given three a second, when the millionth is due, then it is at its place to the last digit that counts
    due_s = next(itertools.islice(due_times_s(3.0, "even", 0), 999_999, None))
    assert due_s == pytest.approx(333_333.0, abs=1e-6)


def test_independent_callers_come_at_the_rate_with_exponential_gaps() -> None:
    # Given the poisson pace
    due_s = list(itertools.islice(due_times_s(50.0, "poisson", 7), 20_000))
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(due_s)]

    # Then the mean is the rate's, and the gaps vary as much as their mean, which no even pace does
    assert statistics.mean(gaps_s) == pytest.approx(1 / 50.0, rel=0.03)
    assert statistics.stdev(gaps_s) == pytest.approx(1 / 50.0, rel=0.05)

    # And the same seed gives the same times
    assert due_s[:100] == list(itertools.islice(due_times_s(50.0, "poisson", 7), 100))
    assert due_s[:100] != list(itertools.islice(due_times_s(50.0, "poisson", 8), 100))


def test_levels_are_drawn_by_their_weights() -> None:
    # Given weights, when levels are drawn, then they come in proportion; without weights none is sent
    weights = read_priorities("HIGH=1, normal=8,LOW=1")
    drawn = Counter(itertools.islice(drawn_priorities(weights, 3), 20_000))
    assert drawn[Priority.NORMAL] / 20_000 == pytest.approx(0.8, abs=0.02)
    assert drawn[Priority.HIGH] / 20_000 == pytest.approx(0.1, abs=0.02)
    assert next(drawn_priorities(None, 0)) is None
    assert read_priorities("LOW") == {Priority.LOW: 1.0}


@pytest.mark.parametrize("text", ["", "URGENT", "HIGH=x", "HIGH=0", "HIGH=-1", "HIGH=nan", "HIGH,,LOW"])
def test_a_mix_that_cannot_be_is_refused(text: str) -> None:
    # Given nonsense, when it is read, then the message names the option
    with pytest.raises(InvalidInput, match="--priority"):
        read_priorities(text)


def test_questions_come_from_a_file(tmp_path: Path) -> None:
    # Given files of both kinds, when they are read, then empty lines are passed over
    plain = tmp_path / "questions.txt"
    plain.write_text("What is it?\n\nWho is there?\n", encoding="utf-8")
    assert read_wordings(plain) == [Wording("What is it?"), Wording("Who is there?")]
    objects = tmp_path / "questions.jsonl"
    objects.write_text('{"prompt": "a", "max_tokens": 5}\n{"prompt": "b"}\n', encoding="utf-8")
    assert read_wordings(objects) == [Wording("a", 5), Wording("b")]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("gone.txt", None),
        ("empty.txt", b"\n \n"),
        ("latin.txt", b"\xff\xfe\xff"),
        ("a.jsonl", b"text\n"),
        ("b.jsonl", b'{"question": "a"}\n'),
        ("c.jsonl", b'{"prompt": 5}\n'),
        ("d.jsonl", b'{"prompt": "a", "max_tokens": "many"}\n'),
        ("e.jsonl", b"[1]\n"),
    ],
)
def test_a_file_without_questions_is_refused(tmp_path: Path, name: str, body: bytes | None) -> None:
    # Given a file that cannot be used, when it is read, then the message names it
    if body is not None:
        (tmp_path / name).write_bytes(body)
    with pytest.raises(InvalidInput, match=name):
        read_wordings(tmp_path / name)
