"""What decoding is told and tells."""

from __future__ import annotations

import pytest

from freeroam.sources.decoding.values import DecoderConfig, FeedFacts
from freeroam.sources.source import SourceFacts


@pytest.mark.parametrize(("fps", "ahead"), [(0.001, 2), (2.0, 2), (5.0, 3), (8.0, 4), (60.0, 4)])
def test_frames_of_half_a_second_may_be_ready(fps, ahead) -> None:
    assert DecoderConfig(ahead_frames=4).ahead_of(fps) == ahead


def test_refused_packets_are_counted_once_over_all_runs_of_a_source() -> None:
    facts = SourceFacts("hls", is_live=True)
    first, second = FeedFacts(bad_packets=2), FeedFacts()

    for _ in range(2):
        first.show_bad(facts)
        second.show_bad(facts)
    first.bad_packets = 3
    second.bad_packets = 1
    first.show_in(facts)
    second.show_in(facts)

    assert facts.skipped == {"packets_bad": 4}
