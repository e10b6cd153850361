"""What is stored comes back, whatever is allowed today."""

from __future__ import annotations

import orjson

from freeroam.store.records import spec_of
from freeroam.vocabulary.job import Policy
from tests.unit.store.rows import new_job


def test_a_wish_comes_back_as_it_was_stored() -> None:
    spec = new_job("a").spec

    assert spec_of(spec.model_dump_json()) == spec


def test_a_wish_that_is_not_allowed_any_more_can_still_be_read() -> None:
    # Given a job that was stored when a greater seed and another option were allowed
    kept = orjson.loads(new_job("a").spec.model_dump_json())
    kept["params"] |= {"threshold": 2.0, "gone": 1}
    kept["source"]["rtsp_transport"] = "udp"

    # When it is read
    spec = spec_of(orjson.dumps(kept).decode())

    # Then it can be shown, stored again and run
    assert (spec.job_id, spec.policy, spec.params.threshold) == ("a", Policy.BLOCK, 2.0)
    assert spec.params.model_dump(exclude_none=True)["threshold"] == 2.0
    assert spec.model_copy(update={"prompt": "new"}).model_dump(mode="json")["source"]["rtsp_transport"] == "udp"
