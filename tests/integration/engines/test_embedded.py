"""The embedded engine among crashes, hangs and models of all kinds, with real processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from freeroam.engines.embedded import EmbeddedEngine, ModelSpec
from freeroam.processes.ring import PAGE_BYTES, FrameRing, RingWriter
from freeroam.vocabulary.errors import ConfigurationError, InvalidInput, ModelError, ModelNotReady
from freeroam.vocabulary.inference import FinishReason, InferenceParams, Output, Piece
from freeroam.vocabulary.model import ModelState
from tests.engines import fake, frame_of, question, running
from tests.waiting import until

HERE = "tests.integration.engines"
BYSTANDER = ModelSpec("m", model_type=f"{HERE}.user_models:Bystander")


async def asked(engine: EmbeddedEngine, count: int, **more: Any) -> list[Any]:
    return await asyncio.gather(
        *(engine.ask(question(str(n), lane=str(n % 5), **more)) for n in range(count)), return_exceptions=True
    )


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_killed_replica_costs_no_answer(replicas: int) -> None:
    async with running(fake(latency_ms=20.0, max_batch=4, replicas=replicas)) as engine:
        asking = asyncio.create_task(asked(engine, 200))
        await until(lambda: engine.describe().statistics["calls"] > 2)
        victim = engine.replica_pids()[0]
        os.kill(victim, signal.SIGKILL)
        answers = await asking

        await until(lambda: engine.describe().state is ModelState.READY)
        statistics = engine.describe().statistics
        assert victim not in engine.replica_pids()
        assert len(engine.replica_pids()) == replicas

    assert all(isinstance(answer, Output) for answer in answers)
    assert statistics["replica_restarts"] == {"crashed": 1}
    assert statistics["asked_again"] <= 8


async def test_a_stopped_replica_is_replaced_when_its_deadline_passes() -> None:
    async with running(fake(latency_ms=5.0), inference_timeout_s=0.5) as engine:
        victim = engine.replica_pids()[0]
        os.kill(victim, signal.SIGSTOP)

        answers = await asked(engine, 10)

        assert not psutil.pid_exists(victim) or psutil.Process(victim).status() == psutil.STATUS_ZOMBIE
    assert all(isinstance(answer, Output) for answer in answers)


async def test_frames_in_shared_memory_are_shown_to_a_model_which_may_keep_them() -> None:
    ring = FrameRing(2 * PAGE_BYTES)
    writer = RingWriter(os.dup(ring.write_fd))
    sums = []
    async with running(ModelSpec("m", model_type=f"{HERE}.keeping_model:Keeper")) as engine:
        for value in (1, 2, 3):
            picture = np.full((20, 30, 3), value, np.uint8)
            lease = ring.lease(picture.nbytes)
            assert lease is not None
            writer.write(lease.at, picture.tobytes())
            shared = replace(frame_of(picture), pixels=lease.filled(picture.nbytes))
            del lease
            answer = await engine.ask(question(frames=(shared, frame_of(picture))))
            del shared
            sums.append(answer.extra["sums"])
            # The call let go of the frame, so the next one is written to the same place.
            await until(lambda: ring.used_bytes == 0)
        ring.close()

    assert sums == [[1800, 1800, 1800], [1800, 3600, 3600], [1800, 5400, 5400]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what is mapped")
async def test_a_replica_lets_go_of_rings_that_are_closed_and_keeps_no_descriptor_of_any() -> None:
    async with running(fake(latency_ms=1.0)) as engine:
        replica = psutil.Process(engine.replica_pids()[0])
        descriptors = replica.num_fds()
        for _ in range(4):
            ring = FrameRing(2 * PAGE_BYTES)
            shared = replace(frame_of(), pixels=ring.lease(36 * 64 * 3).filled(36 * 64 * 3))
            assert isinstance(await engine.ask(question(frames=(shared,))), Output)
            del shared
            mapped = [part for part in replica.memory_maps(grouped=False) if "freeroam-frames" in part.path]
            assert len(mapped) == 1
            assert replica.num_fds() == descriptors
            ring.close()


async def test_a_frame_in_shared_memory_stays_while_a_replica_may_still_read_it() -> None:
    ring = FrameRing(2 * PAGE_BYTES)
    async with running(fake(latency_ms=1.0), inference_timeout_s=30.0) as engine:
        victim = engine.replica_pids()[0]
        os.kill(victim, signal.SIGSTOP)
        shared = replace(frame_of(), pixels=ring.lease(36 * 64 * 3).filled(36 * 64 * 3))
        asking = asyncio.create_task(engine.ask(question(frames=(shared,))))
        del shared
        # One turn of the loop admits it, a later one puts it to the replica.
        await asyncio.sleep(0)
        await until(lambda: engine.describe().queued == 0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        del asking  # its traceback refers to the question
        assert ring.used_bytes > 0

        os.kill(victim, signal.SIGCONT)
        await until(lambda: ring.used_bytes == 0)
        ring.close()


async def test_other_replicas_go_on_while_one_is_stopped() -> None:
    async with running(fake(latency_ms=5.0, max_batch=2, replicas=2), inference_timeout_s=3.0) as engine:
        os.kill(engine.replica_pids()[0], signal.SIGSTOP)

        asking = [asyncio.create_task(engine.ask(question(str(n)))) for n in range(50)]
        # All but the one batch that the stopped replica holds are answered before anybody misses it.
        await until(lambda: sum(task.done() for task in asking) >= 48)
        assert engine.describe().statistics["replica_restarts"] == {}

        answers = await asyncio.gather(*asking)
    assert len(answers) == 50


async def test_a_poison_question_fails_alone_and_its_neighbours_are_answered() -> None:
    prompts = ["a", "b", "poison", "c", "d", "e"]
    async with running(BYSTANDER) as engine:
        answers = await asyncio.gather(
            *(engine.ask(question(prompt, lane=prompt)) for prompt in prompts), return_exceptions=True
        )
        await until(lambda: engine.describe().state is ModelState.READY)
        restarts = engine.describe().statistics["replica_restarts"]

    by_prompt = dict(zip(prompts, answers, strict=True))
    poison = by_prompt.pop("poison")
    assert isinstance(poison, ModelError)
    assert poison.code == "replica_lost"
    assert "status 9" in poison.message
    assert [answer.text for answer in by_prompt.values()] == list(by_prompt)
    assert restarts == {"crashed": 2}


async def test_a_question_that_hangs_twice_is_given_up_and_others_go_on() -> None:
    async with running(fake(), inference_timeout_s=0.4) as engine:
        hanging = asyncio.create_task(engine.ask(question("hang")))
        await asyncio.sleep(0.1)
        others = await asked(engine, 5)

        with pytest.raises(ModelError) as caught:
            await hanging
    assert caught.value.code == "inference_timeout"
    assert all(isinstance(answer, Output) for answer in others)


async def test_an_answer_that_was_begun_is_not_begun_again() -> None:
    async with running(fake(tokens=20, token_latency_ms=2.0)) as engine:
        stream = engine.stream(question("crash at 10"))
        pieces = [await anext(stream)]
        with pytest.raises(ModelError) as caught:
            pieces += [item async for item in stream]

        assert (await engine.ask(question("after"))).text
        restarts = engine.describe().statistics["replica_restarts"]
    assert caught.value.code == "replica_lost"
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert restarts == {"crashed": 1}


async def test_an_answer_that_is_being_spoken_stays_where_it_is_when_another_replica_is_idle() -> None:
    async with running(fake(tokens=60, token_latency_ms=5.0, replicas=2)) as engine:
        first, third = (engine.stream(question(name)) for name in ("first", "third"))
        second = engine.stream(replace(question("second"), params=InferenceParams(max_tokens=12)))
        spoken: dict[str, list[Any]] = {"first": [], "second": [], "third": []}
        for name, stream in (("first", first), ("second", second), ("third", third)):
            spoken[name].append(await anext(stream))

        async def listen(name: str, stream: Any) -> None:
            spoken[name] += [item async for item in stream]

        await asyncio.gather(listen("first", first), listen("second", second), listen("third", third))

    for name, count in (("first", 60), ("second", 12), ("third", 60)):
        *pieces, output = spoken[name]
        assert "".join(piece.text for piece in pieces) == output.text
        assert len(output.tokens) == count


async def test_a_replica_that_kept_dying_beside_a_healthy_one_is_tried_again() -> None:
    async with running(fake(replicas=2), pause_s=0.2, max_deaths=2) as engine:
        healthy = engine.replica_pids()[0]
        for _ in range(2):
            await until(lambda: engine.describe().replicas_ready == 2)
            os.kill(next(pid for pid in engine.replica_pids() if pid != healthy), signal.SIGKILL)
            await until(lambda: engine.describe().replicas_ready == 1)

        await until(lambda: engine.describe().replicas_ready == 2)

        assert healthy in engine.replica_pids()
        assert engine.describe().state is ModelState.READY


async def test_a_crash_loop_trips_the_breaker_and_a_trial_mends_it() -> None:
    async with running(fake(), pause_s=0.6, max_deaths=3) as engine:
        answers = await asyncio.gather(*(engine.ask(question("crash")) for _ in range(4)), return_exceptions=True)
        await until(lambda: engine.describe().state is ModelState.FAILED)

        with pytest.raises(ModelNotReady) as caught:
            await engine.ask(question("fine"))
        assert engine.describe().error

        await until(lambda: engine.describe().state is ModelState.READY)
        assert (await engine.ask(question("fine"))).text

    assert caught.value.retry_after_s > 0
    assert {type(answer) for answer in answers} <= {ModelError, ModelNotReady}


async def test_a_replica_that_loads_too_slowly_is_given_up() -> None:
    async with running(fake(load_ms=60_000.0), is_awaited=False, load_timeout_s=0.3, max_deaths=2) as engine:
        assert not await engine.wait_ready(30.0)
        assert "said nothing for 0.3 s" in (engine.describe().error or "")


async def test_a_users_model_may_await_print_and_use_numpy_numbers() -> None:
    async with running(ModelSpec("m", model_type=f"{HERE}.user_models:Awaiting")) as engine:
        answers = await asyncio.gather(*(engine.ask(question(f"q{n}")) for n in range(5)))
        info = engine.describe()

    assert [answer.predictions[0].label for answer in answers] == [f"aQ{n}" for n in range(5)]
    assert answers[0].confidence == [0.5]
    assert answers[0].extra == {"shapes": [[36, 64, 3]], "writeable": False}
    assert {answer.batch_size for answer in answers} == {1}
    assert info.info["size"] == 3
    assert info.wishes.window is None


async def test_a_batch_of_wrong_length_is_an_error_of_the_model() -> None:
    async with running(ModelSpec("m", model_type=f"{HERE}.user_models:Short")) as engine:
        with pytest.raises(ModelError, match="list of 1 answers"):
            await engine.ask(question())


@pytest.mark.parametrize("name", ["cls", "_fields_set", "self", "model_dump", "copy"])
async def test_no_field_of_an_answer_harms_the_engine(name: str) -> None:
    async with running(ModelSpec("m", model_type=f"{HERE}.user_models:Odd")) as engine:
        output = await engine.ask(question(name))
        assert (await engine.ask(question("again"))).predictions[0].label == "cat"

    assert output.predictions[0].model_dump()[name] == 15
    assert output.finish_reason == "stop"
    assert output.prompt_tokens == 0


@pytest.mark.parametrize(("asked_for", "most"), [(None, 5), (3, 3), (50, 5)])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_model_that_speaks_without_end_is_closed_at_the_greatest_length(
    asked_for: int | None, most: int, is_streamed: bool
) -> None:
    endless = question("go", params=InferenceParams(max_tokens=asked_for))
    async with running(ModelSpec("m", model_type=f"{HERE}.user_models:Endless"), max_tokens=5) as engine:
        items = [item async for item in engine.stream(endless)] if is_streamed else [await engine.ask(endless)]
        counted = await engine.ask(question("how many were closed"))

    output = items[-1]
    said = "".join(f"{number} " for number in range(most))
    assert (output.text, output.completion_tokens, output.finish_reason) == (said, most, FinishReason.LENGTH)
    assert "".join(item.text for item in items[:-1]) == (said if is_streamed else "")
    assert counted.extra["closed"] == 1


async def test_the_example_of_the_seeds_runs_unmodified() -> None:
    async with running(ModelSpec("m", model_type=f"{HERE}.seed_model:MyVLM")) as engine:
        output = await engine.ask(question())

    assert output.predictions == []
    assert output.model_type == "my_vlm"


async def test_the_example_to_copy_from_works() -> None:
    async with running(ModelSpec("m", model_type="example_vlm")) as engine:
        output = await engine.ask(question(frames=(frame_of(np.zeros((36, 64, 3), np.uint8)),)))
        empty = await engine.ask(question(frames=()))

    assert output.text == "A dark scene, brightness 0%."
    assert output.predictions[0].bbox == [0, 0, 64, 36]
    assert empty.predictions == []


async def test_a_model_that_is_not_there_is_named_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match="MODEL_TYPE=nonsense"):
        async with running(ModelSpec("m", model_type="nonsense")):
            pass


async def test_a_module_that_is_not_there_is_named_by_the_failed_model() -> None:
    async with running(ModelSpec("m", model_type="no_such_module:Model"), is_awaited=False) as engine:
        assert not await engine.wait_ready(60.0)
        assert "MODEL_TYPE=no_such_module:Model" in (engine.describe().error or "")


async def test_no_request_waits_while_a_replica_is_idle() -> None:
    """A batch that was sent ahead to a replica which then takes long is given to the one that is free."""
    async with running(fake(latency_ms=1.0, max_batch=1, replicas=2), inference_timeout_s=60.0) as engine:
        await asked(engine, 20)
        stuck = asyncio.create_task(engine.ask(question("hang", lane="stuck")))
        await asyncio.sleep(0.05)

        for _ in range(20):
            answers = await asked(engine, 4)
            assert all(isinstance(answer, Output) for answer in answers)
        assert not stuck.done()
        stuck.cancel()


async def test_batching_can_be_changed_while_it_runs() -> None:
    async with running(fake(latency_ms=20.0, max_batch=8)) as engine:
        engine.change_batching("fake", max_batch=2)
        answers = await asked(engine, 20)
        with pytest.raises(ConfigurationError, match="MAX_BATCH_SIZE=65"):
            engine.change_batching("fake", max_batch=65)

    assert max(answer.batch_size for answer in answers) == 2


async def test_nothing_is_left_when_an_engine_has_stopped() -> None:
    me = psutil.Process()
    async with running(fake(replicas=2)) as engine:
        await asked(engine, 5)
        pids = engine.replica_pids()
        descriptors = me.num_fds()

    await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert me.num_fds() < descriptors
    assert [task for task in asyncio.all_tasks() if "replica" in task.get_name()] == []


async def test_large_frames_arrive_as_they_were() -> None:
    picture = np.random.default_rng(3).integers(0, 255, (720, 1280, 3), np.uint8)
    async with running(ModelSpec("m", model_type="example_vlm")) as engine:
        output = await engine.ask(question(frames=tuple(frame_of(picture) for _ in range(8))))

    assert output.extra["brightness"] == pytest.approx(picture.mean() / 255.0)


@pytest.mark.parametrize(
    ("name", "label"), [("astronaut", "person"), ("cat", "cat"), ("coffee", "cup")], ids=["astronaut", "cat", "coffee"]
)
async def test_the_detector_sees_what_is_in_a_picture(name: str, label: str) -> None:
    pictures = pytest.importorskip("skimage.data")
    picture = getattr(pictures, name)()[..., :3]
    async with running(ModelSpec("detector")) as engine:
        whole, other, nothing, keen = await asyncio.gather(
            engine.ask(question("anything", frames=(frame_of(picture),))),
            engine.ask(question("giraffes", frames=(frame_of(picture),))),
            engine.ask(question(label, frames=())),
            engine.ask(question("all", frames=(frame_of(picture),), params=InferenceParams(threshold=0.05))),
        )

    assert label in [prediction.label for prediction in whole.predictions]
    assert len(keen.predictions) > len(whole.predictions)
    assert whole.confidence == [prediction.confidence for prediction in whole.predictions]
    height, width = picture.shape[:2]
    for prediction in keen.predictions:
        x1, y1, x2, y2 = prediction.bbox or []
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    assert (other.predictions, other.text) == ([], "nothing found")
    assert nothing.predictions == []
    assert whole.text is not None
    assert f"1 {label}" in whole.text


async def test_frames_of_several_shapes_are_answered_in_order() -> None:
    pictures = pytest.importorskip("skimage.data")
    shown = [pictures.cat(), pictures.astronaut(), pictures.coffee(), pictures.astronaut()]
    async with running(ModelSpec("detector")) as engine:
        answers = await asyncio.gather(*(engine.ask(question("anything", frames=(frame_of(p),))) for p in shown))

    assert [(answer.text or "").split(",")[0] for answer in answers] == ["1 cat", "1 person", "1 cup", "1 person"]


def test_a_replica_does_not_load_what_only_the_parent_needs(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import freeroam.engines.replica, sys; print([m for m in ('fastapi','sqlalchemy','av','structlog','prometheus_client','onnxruntime') if m in sys.modules])"  # noqa: E501
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, cwd=tmp_path)  # fmt: skip

    assert printed.stdout.strip() == "[]"


async def test_the_time_of_a_call_is_told_on_this_machines_clock() -> None:
    async with running(fake(latency_ms=50.0)) as engine:
        begun_s = time.monotonic()
        output = await engine.ask(question())
        ended_s = time.monotonic()

    assert begun_s <= output.started_monotonic_s <= ended_s
    assert 50.0 <= output.model_ms <= (ended_s - begun_s) * 1000.0


async def test_a_question_that_the_caller_got_wrong_leaves_no_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    picky = ModelSpec("m", model_type=f"{HERE}.user_models:Thoughtful", model_path="refuses")
    async with running(picky) as engine:
        with pytest.raises(InvalidInput, match="ask otherwise"):
            await engine.ask(question("wrong"))
        with pytest.raises(ModelError, match="cannot take it"):
            await engine.ask(question("right"))
        await until(lambda: "RuntimeError: cannot take it" in caplog.text)

    assert "ask otherwise" not in caplog.text
