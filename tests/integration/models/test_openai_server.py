"""Servers of the OpenAI API as models: real ones, asked, killed and started again; and a hostile one for the faults."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from PIL import Image

from freeroam.models.openai_failures import UpstreamError
from freeroam.models.openai_server import OpenAIServer
from freeroam.vocabulary.errors import ModelError
from freeroam.vocabulary.inference import FinishReason, InferenceParams, Piece
from freeroam.vocabulary.model import ModelState
from tests.engines import frame_of, question, running
from tests.integration.models.openai_servers import (
    Call,
    HostileServer,
    RealServer,
    far_model,
    heard,
    text_question,
    transformers_serve,
)
from tests.tiny_language_models import smollm2
from tests.tiny_vlms import make_vlm
from tests.waiting import until

KEY = "sk-a-key-that-nobody-may-see"


# Real servers.


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of the Llama architecture with random weights and a real tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    weights = smollm2()
    tokenizer = AutoTokenizer.from_pretrained(str(weights.parent), gguf_file=weights.name)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=400_000, bos_token_id=tokenizer.bos_token_id, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
async def tiny_server(tiny_model: Path, tmp_path: Path) -> AsyncIterator[RealServer]:
    server = transformers_serve(tiny_model, tmp_path / "server.log")
    await server.start()
    yield server
    server.kill()


@pytest.mark.timeout(240)
async def test_transformers_serve_is_asked_killed_and_found_again(tiny_server: RealServer, tiny_model: Path) -> None:
    model = far_model(tiny_server.url, model=str(tiny_model), concurrency=4, retries=1)
    async with running(model) as engine:
        pieces, output = await heard(engine, text_question(max_tokens=6, temperature=0.0))
        several = await asyncio.gather(
            *(engine.ask(text_question(max_tokens=4 + n, temperature=0.0)) for n in range(10))
        )
        pid = engine.replica_pids()[0]

        tiny_server.kill()
        with pytest.raises(ModelError, match="is the server running") as caught:
            await engine.ask(text_question(max_tokens=3))
        await tiny_server.start()
        again = await engine.ask(text_question(max_tokens=6, temperature=0.0))

        assert engine.replica_pids() == [pid]
        assert engine.describe().state is ModelState.READY

    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == output.text == again.text
    assert output.finish_reason is FinishReason.LENGTH
    assert (output.completion_tokens, output.prompt_tokens > 0) == (6, True)
    assert all(str(output.text).startswith(str(one.text)[:10]) for one in several)
    assert [one.completion_tokens for one in several] == [4 + n for n in range(10)]
    assert caught.value.code == "upstream_unavailable"


@pytest.mark.timeout(240)
async def test_an_answer_that_breaks_off_with_its_server_is_not_begun_again(
    tiny_server: RealServer, tiny_model: Path
) -> None:
    async with running(far_model(tiny_server.url, model=str(tiny_model))) as engine:
        stream = engine.stream(text_question(max_tokens=4000))
        first = await anext(stream)
        tiny_server.kill()
        with pytest.raises(ModelError) as caught:
            _ = [item async for item in stream]

    assert isinstance(first, Piece)
    assert caught.value.code in {"upstream_unavailable", "upstream_failed"}
    assert tiny_server.log().count("POST /v1/chat/completions") == 1


@pytest.mark.timeout(240)
async def test_a_client_that_goes_away_stops_the_server(tiny_server: RealServer, tiny_model: Path) -> None:
    async with running(far_model(tiny_server.url, model=str(tiny_model))) as engine:
        # Far longer than the test may take; this server answers one after another.
        stream = engine.stream(text_question(max_tokens=200_000))
        await anext(stream)
        assert not await tiny_server.is_idle()
        await stream.aclose()

        await until(tiny_server.is_idle)
        assert (await engine.ask(text_question(max_tokens=2))).completion_tokens == 2


@pytest.mark.timeout(240)
async def test_a_real_server_is_shown_the_pictures(tmp_path: Path) -> None:
    server = transformers_serve(make_vlm("llava", tmp_path / "vlm"), tmp_path / "server.log")
    await server.start()
    noise = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    try:
        async with running(far_model(server.url, model=str(tmp_path / "vlm"))) as engine:
            told = [
                await engine.ask(
                    question("What?", frames=frames, params=InferenceParams(max_tokens=12, temperature=0.0))
                )
                for frames in ((), (frame_of(noise),), (frame_of(255 - noise),), (frame_of(noise), frame_of(noise)))
            ]
    finally:
        server.kill()

    assert [one.completion_tokens for one in told] == [12] * 4
    tokens = [one.prompt_tokens for one in told]
    assert tokens[0] < tokens[1] == tokens[2] < tokens[3]
    assert told[1].text != told[2].text


# Faults, by a server that does what it is told.


async def say_hello(call: Call) -> None:
    await call.say("Hel", "lo")


def refusing(status: int, said: str = "no", **headers: str) -> Any:
    async def refuse(call: Call) -> None:
        await call.refuse(status, {"error": {"message": said}}, **headers)

    return refuse


async def cut_at_once(call: Call) -> None:
    """Close without a word."""


async def cut_in_the_middle(call: Call) -> None:
    await call.head()
    await call.chunk("Hel")


async def cut_before_the_first_word(call: Call) -> None:
    await call.head()


async def begin_and_wait(call: Call) -> None:
    await call.head()
    await call.until_gone("begun")


async def drip(call: Call) -> None:
    await call.head()
    while True:
        await call.send(b": still here\n")
        await asyncio.sleep(0.01)


async def say_nothing(call: Call) -> None:
    await call.until_gone()


async def speak_wrongly(call: Call) -> None:
    await call.head()
    await call.send(b'data: {"choices": [{"delta"\n\n')


async def endless_line(call: Call) -> None:
    await call.head()
    while True:
        await call.send(b"x" * 65536)


async def endless_answer(call: Call) -> None:
    await call.head()
    while True:
        await call.chunk("more " * 1000)


async def fail_in_the_stream(call: Call) -> None:
    await call.head()
    await call.send(b'data: {"error": {"message": "CUDA out of memory"}}\n\n')


async def talk_html(call: Call) -> None:
    await call.head(kind="text/html")
    await call.send(b"<html>Welcome</html>\n\n")


async def answer_whole(call: Call) -> None:
    await call.refuse(200, {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})


async def redirect(call: Call) -> None:
    await call.refuse(307, {}, location="http://127.0.0.1:1/v1/chat/completions")


FAULTS = [
    (refusing(401, "bad key"), "upstream_auth", "api_key"),
    (refusing(403), "upstream_auth", "api_key"),
    (refusing(404, "no such model"), "upstream_rejected", "no such model"),
    (refusing(400, "context length"), "upstream_rejected", "context length"),
    (refusing(500, "boom"), "upstream_failed", "boom"),
    (refusing(503, "loading"), "upstream_unavailable", "loading"),
    (refusing(429, "slow down"), "upstream_rate_limited", "lower concurrency"),
    (refusing(429, "slow down", retry_after="3600"), "upstream_rate_limited", "lower concurrency"),
    (redirect, "upstream_rejected", "redirects are not followed"),
    (cut_at_once, "upstream_unavailable", "broke off"),
    (cut_before_the_first_word, "upstream_failed", "before the end"),
    (cut_in_the_middle, "upstream_failed", "before the end"),
    (drip, "upstream_timeout", "timeout_s"),
    (say_nothing, "upstream_timeout", "timeout_s"),
    (speak_wrongly, "upstream_malformed", "no JSON"),
    (endless_line, "upstream_malformed", "more than"),
    (endless_answer, "upstream_malformed", "max_answer_bytes"),
    (fail_in_the_stream, "upstream_failed", "CUDA out of memory"),
    (talk_html, "upstream_failed", "before the end"),
]


async def test_every_fault_has_its_code_and_the_model_lives_on() -> None:
    server = HostileServer(say_hello)
    options = {"timeout_s": 0.5, "retries": 1, "max_answer_bytes": 4_000_000, "api_key": KEY}
    async with server.serving(), running(far_model(server.url, **options)) as engine:
        pid = engine.replica_pids()[0]
        for fault, code, said in FAULTS:
            server.behaviours = [fault]
            with pytest.raises(ModelError, match=said) as caught:
                await engine.ask(text_question())
            assert caught.value.code == code, fault
            assert KEY not in caught.value.message
            server.behaviours = [say_hello]
            assert (await engine.ask(text_question())).text == "Hello"

        assert engine.replica_pids() == [pid]
        await until(lambda: server.open == 0)


@pytest.mark.parametrize(
    "passing",
    [
        refusing(429, "wait", retry_after="0"), refusing(502), refusing(503), refusing(504), cut_at_once,
        cut_before_the_first_word,
    ],
)  # fmt: skip
async def test_what_passes_is_asked_again_before_the_first_word(passing: Any) -> None:
    server = HostileServer(passing, passing, say_hello)
    async with server.serving(), running(far_model(server.url)) as engine:
        pieces, output = await heard(engine, text_question())

    assert output.text == "Hello"
    assert sum(piece.count for piece in pieces) == 2
    assert len(server.calls) == 3


@pytest.mark.parametrize("lasting", [refusing(400), refusing(401), refusing(500), cut_in_the_middle, redirect])
async def test_what_does_not_pass_or_has_begun_is_asked_once(lasting: Any) -> None:
    server = HostileServer(lasting)
    async with server.serving(), running(far_model(server.url)) as engine:
        with pytest.raises(ModelError):
            await engine.ask(text_question())

    assert len(server.calls) == 1


async def test_an_answer_in_one_piece_is_taken_too() -> None:
    server = HostileServer(answer_whole)
    async with server.serving(), running(far_model(server.url)) as engine:
        assert (await engine.ask(text_question())).text == "Hello"


async def test_questions_are_in_flight_together_and_end_in_any_order() -> None:
    gates: dict[str, asyncio.Event] = {str(n): asyncio.Event() for n in range(8)}

    async def when_let(call: Call) -> None:
        prompt = call.body["messages"][0]["content"]
        await gates[prompt].wait()
        await call.say(prompt)

    server = HostileServer(when_let)
    async with server.serving(), running(far_model(server.url, concurrency=8)) as engine:
        tasks = {n: asyncio.create_task(engine.ask(text_question(n))) for n in gates}
        await until(lambda: len(server.calls) == 8)
        for n in reversed(gates):
            gates[n].set()
            assert (await tasks[n]).text == n
            assert sum(task.done() for task in tasks.values()) == 8 - int(n)


async def test_who_goes_away_closes_its_connection_and_no_other() -> None:
    gone = []

    async def speak_slowly(call: Call) -> None:
        await call.head()
        await call.chunk("begun")
        if call.body["messages"][0]["content"] == "staying":
            await asyncio.wait_for(leaving.wait(), 30)
            await call.chunk(" and ended", "stop")
            return
        await call.until_gone()
        gone.append(call)

    leaving = asyncio.Event()
    server = HostileServer(speak_slowly)
    async with server.serving(), running(far_model(server.url)) as engine:
        staying = asyncio.create_task(engine.ask(text_question("staying")))
        streams = [engine.stream(text_question(f"going {n}")) for n in range(5)]
        for stream in streams:
            assert isinstance(await anext(stream), Piece)
        for stream in streams:
            await stream.aclose()
        await until(lambda: len(gone) == 5)
        leaving.set()

        assert (await staying).text == "begun and ended"


async def test_many_that_go_away_leave_every_connection_free() -> None:
    server = HostileServer(say_nothing)
    async with server.serving(), running(far_model(server.url, concurrency=4)) as engine:
        for wave in range(1, 11):
            asking = [asyncio.create_task(engine.ask(text_question())) for _ in range(4)]
            await until(lambda wave=wave: len(server.calls) == 4 * wave)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            await until(lambda: server.open == 0)
        server.behaviours = [say_hello]
        answers = await asyncio.gather(*(engine.ask(text_question()) for _ in range(8)))

    assert [answer.text for answer in answers] == ["Hello"] * 8


async def test_health_is_a_look_at_the_list_unless_the_server_has_just_spoken() -> None:
    server = HostileServer(say_hello)
    model = OpenAIServer(model="named")
    async with server.serving():
        await model.initialize(server.url)
        await model.check_health()
        assert len(server.looks) == 2

        assert (await model.predict([], "hi"))["text"] == "Hello"
        await model.check_health()
        assert len(server.looks) == 2

    model._ready.heard_s = 0.0
    with pytest.raises(UpstreamError, match="is the server running"):
        await model.check_health()
    for answer, is_healthy in ((refusing(404), True), (refusing(401), False), (say_nothing, False)):
        server.models = answer
        async with server.serving():
            moved = OpenAIServer(model="named")
            server.models, kept = None, answer
            await moved.initialize(server.url)
            server.models = kept
            if is_healthy:
                await moved.check_health()
            else:
                with pytest.raises(UpstreamError):
                    await moved.check_health()
            await moved.close()
    await model.close()


async def test_a_stop_text_that_the_server_ignores_ends_the_answer_and_the_call() -> None:
    gone = asyncio.Event()

    async def never_stop(call: Call) -> None:
        await call.head()
        await call.until_gone("one\n\n", "two")
        gone.set()

    server = HostileServer(never_stop)
    async with server.serving(), running(far_model(server.url)) as engine:
        output = await engine.ask(text_question(stop=["\n\n"]))
        await asyncio.wait_for(gone.wait(), 30)

    assert (output.text, output.finish_reason) == ("one", FinishReason.STOP)


@pytest.mark.parametrize(
    ("asked_for", "extra", "sent"),
    [
        ({}, {}, 9),
        ({"max_tokens": 5}, {}, 5),
        ({"max_tokens": 20}, {}, 9),
        ({}, {"max_completion_tokens": 7}, 7),
        ({"max_tokens": 8}, {"max_tokens": 7}, 7),
        ({}, {"max_tokens": 20}, 9),
    ],
)
async def test_a_greatest_length_is_always_sent(asked_for: dict[str, int], extra: dict[str, int], sent: int) -> None:
    server = HostileServer(say_hello)
    async with server.serving(), running(far_model(server.url, extra=extra), max_tokens=9) as engine:
        await engine.ask(text_question(**asked_for))

    lengths = {name: value for name, value in server.calls[0].body.items() if name.startswith("max_")}
    assert lengths == {"max_tokens": sent}


async def test_a_server_that_has_no_room_for_the_ceiling_is_asked_without_it() -> None:
    too_large = "max_tokens is too large: 9. This model's maximum context length is 8 tokens"
    server = HostileServer(refusing(400, too_large), say_hello, refusing(400, too_large))
    async with server.serving(), running(far_model(server.url), max_tokens=9) as engine:
        output = await engine.ask(text_question())
        with pytest.raises(ModelError, match="too large"):
            await engine.ask(text_question(max_tokens=9))

    assert output.text == "Hello"
    assert [call.body.get("max_tokens") for call in server.calls] == [9, None, 9]


async def test_a_server_that_heeds_no_length_is_left_at_it() -> None:
    gone = asyncio.Event()

    async def never_end(call: Call) -> None:
        await call.head()
        await call.until_gone(*["x"] * 20)
        gone.set()

    server = HostileServer(never_end)
    async with server.serving(), running(far_model(server.url), max_tokens=9) as engine:
        output = await engine.ask(text_question())
        await asyncio.wait_for(gone.wait(), 30)

    assert (output.text, output.finish_reason, output.completion_tokens) == ("x" * 9, FinishReason.LENGTH, 9)


async def test_a_window_of_pictures_arrives_as_it_was() -> None:
    def picture(level: int) -> np.ndarray:
        return np.full((48, 64, 3), level, np.uint8)

    async def boxed(call: Call) -> None:
        await call.say('{"bbox_2d": [8, 12, 32, 24], "label": "cat"}')

    server = HostileServer(boxed)
    async with server.serving(), running(far_model(server.url, detail="low", box_scale="pixels")) as engine:
        frames = tuple(frame_of(picture(level)) for level in (10, 120, 250))
        output = await engine.ask(question("Box the cat", frames=frames))

    *pictures, text = server.calls[0].body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Box the cat"}
    assert [part["image_url"]["detail"] for part in pictures] == ["low"] * 3
    packed = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in pictures]
    shown = [np.asarray(Image.open(io.BytesIO(one))) for one in packed]
    assert [(one.shape, abs(int(one.mean()) - level) <= 2) for one, level in zip(shown, (10, 120, 250), strict=True)] \
        == [((48, 64, 3), True)] * 3  # fmt: skip
    assert [(one.label, one.bbox) for one in output.predictions] == [("cat", [8.0, 12.0, 32.0, 24.0])]


@pytest.mark.parametrize(
    ("options", "expected"), [({}, "first"), ({"model": "second"}, "second"), ({"model": "unlisted"}, "unlisted")]
)
async def test_the_first_listed_model_is_asked_or_the_one_that_is_named(options: dict[str, str], expected: str) -> None:
    server = HostileServer(say_hello)
    async with server.serving(), running(far_model(server.url, **options)) as engine:
        await engine.ask(text_question())

        assert engine.describe().info["model"] == expected
        assert engine.describe().info["is_listed"] is (expected != "unlisted")
    assert server.calls[0].body["model"] == expected


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (refusing(401, "who are you"), "refused the key"),
        (refusing(503), "failed with status 503"),
        (redirect, "redirects are not followed"),
        (talk_html, "a list of models that is no JSON"),
        (cut_at_once, "broke off"),
    ],
)
async def test_a_server_that_is_not_itself_at_the_start_fails_the_load(models: Any, said: str) -> None:
    server = HostileServer(say_hello, models=models)
    async with server.serving(), running(far_model(server.url, model="named"), is_awaited=False) as engine:
        await until(lambda: engine.describe().state is ModelState.FAILED)

        assert said in str(engine.describe().error)


@pytest.mark.parametrize(("options", "is_ready"), [({"model": "named"}, True), ({}, False)])
async def test_a_server_without_a_list_needs_the_name_of_the_model(options: dict[str, str], is_ready: bool) -> None:
    server = HostileServer(say_hello, models=refusing(404))
    async with server.serving(), running(far_model(server.url, **options), is_awaited=False) as engine:
        assert await engine.wait_ready(60.0) is is_ready


async def test_a_model_whose_server_comes_late_is_loaded_by_the_breaker() -> None:
    server = HostileServer(say_hello)
    async with server.serving():
        url = server.url
    port = int(url.split(":")[2].split("/")[0])
    async with running(far_model(url), is_awaited=False, pause_s=0.2, max_pause_s=0.2) as engine:
        await until(lambda: engine.describe().state is ModelState.FAILED)
        assert "is the server running" in str(engine.describe().error)

        late = await asyncio.start_server(server._serve, "127.0.0.1", port)
        await until(lambda: engine.describe().state is ModelState.READY)
        assert (await engine.ask(text_question())).text == "Hello"
        late.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_certificates_are_checked(authority: trustme.CA, tmp_path: Path, is_trusted: bool) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    options = {"ca_file": str(tmp_path / "ca.pem")} if is_trusted else {}
    server = HostileServer(say_hello)
    async with server.serving(ssl=context), running(far_model(server.url, **options), is_awaited=False) as engine:
        if is_trusted:
            assert await engine.wait_ready(60.0), engine.describe().error
            assert (await engine.ask(text_question())).text == "Hello"
            server.behaviours = [begin_and_wait]
            stream = engine.stream(text_question())
            await anext(stream)
            await stream.aclose()
            await until(lambda: server.open == 0)
        else:
            await until(lambda: engine.describe().state is ModelState.FAILED)
            assert "no encrypted connection" in str(engine.describe().error)


async def test_the_key_is_sent_and_shown_nowhere(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text(KEY)

    async def echo(call: Call) -> None:
        await call.refuse(400, {"error": {"message": f"bad header {call.headers['authorization']}"}})

    server = HostileServer(echo)
    async with server.serving(), running(far_model(server.url, api_key_file=str(tmp_path / "key"))) as engine:
        with pytest.raises(ModelError) as caught:
            await engine.ask(text_question())
        described = engine.describe().model_dump_json()

    assert [call.headers["authorization"] for call in (*server.looks, *server.calls)] == [f"Bearer {KEY}"] * 2
    seen = (
        "".join(capfd.readouterr()) + caplog.text + described + caught.value.message + json.dumps(caught.value.detail)
    )
    assert KEY not in seen
    assert "bad header" in seen
