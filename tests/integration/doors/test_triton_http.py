"""The official Triton client over HTTP, unchanged, against the real service; and what clients of another kind send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from httpx_sse import connect_sse
from tritonclient.utils import InferenceServerException

from tests.integration.doors.conftest import SEER, SPEAKER, Doors

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def client(doors: Doors) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(doors.http) as client:
        yield client


def texts(name: str, *values: bytes, is_binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_), binary_data=is_binary)
    return tensor


def pixels(*shape: int) -> triton.InferInput:
    tensor = triton.InferInput("image", list(shape), "UINT8")
    tensor.set_data_from_numpy(np.zeros(shape, np.uint8))
    return tensor


def test_the_server_and_its_models_describe_themselves(client: triton.InferenceServerClient) -> None:
    # Given the client, when it asks what there is, then everything it knows how to ask is answered
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(SPEAKER)
    assert client.is_model_ready(SPEAKER, "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready(SPEAKER, "9")
    assert client.get_server_metadata()["name"] == "freeroam"
    metadata = client.get_model_metadata(SEER)
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["prompt", "image"]
    assert {"text", "labels", "confidence", "boxes"} <= {tensor["name"] for tensor in metadata["outputs"]}
    assert metadata["versions"] == ["1"]
    assert client.get_model_config(SPEAKER)["model_transaction_policy"] == {"decoupled": True}
    assert client.get_model_config(SEER, "1")["max_batch_size"] == 0
    assert client.get_inference_statistics(SEER)["model_stats"][0]["name"] == SEER
    assert {entry["name"] for entry in client.get_inference_statistics()["model_stats"]} == {SEER, SPEAKER}


def test_tensors_go_both_ways_as_bytes(client: triton.InferenceServerClient) -> None:
    # Given a prompt and pixels as bytes, when they are put to a model that sees, then every output comes back
    answer = client.infer(SEER, [texts("prompt", b"what"), pixels(20, 30, 3)], request_id="7")
    assert answer.get_response()["id"] == "7"
    assert answer.as_numpy("text").tolist() == [b"1 frames, asked: what"]
    assert answer.as_numpy("labels").tolist() == [b"thing"]
    assert answer.as_numpy("confidence").tolist() == [0.5]
    assert answer.as_numpy("boxes").tolist() == [[0.0, 0.0, 30.0, 20.0]]
    assert json.loads(answer.as_numpy("predictions_json")[0])[0]["label"] == "thing"


def test_tensors_go_both_ways_as_json(client: triton.InferenceServerClient) -> None:
    # Given a prompt as JSON and a wish for one output as JSON and one as bytes, then they come so
    wanted = [triton.InferRequestedOutput("text", binary_data=False), triton.InferRequestedOutput("boxes")]
    answer = client.infer(SEER, [texts("prompt", "was ist é".encode(), is_binary=False)], outputs=wanted)
    assert answer.as_numpy("text").tolist() == ["0 frames, asked: was ist é"]
    assert answer.as_numpy("boxes").shape == (1, 4)
    assert answer.as_numpy("labels") is None


def test_windows_of_pixels_and_encoded_pictures_are_frames(
    client: triton.InferenceServerClient, picture: bytes
) -> None:
    # Given three frames of pixels, and two files, when they are put to a model, then it gets as many frames
    window = client.infer(SPEAKER, [texts("prompt", b"echo it"), pixels(3, 8, 6, 3)])
    files = client.infer(SPEAKER, [texts("prompt", b"echo it"), texts("image", picture, picture)])
    assert json.loads(window.as_numpy("text")[0])["shapes"] == [[8, 6, 3]] * 3
    assert json.loads(files.as_numpy("text")[0])["shapes"] == [[12, 16, 3]] * 2


def test_parameters_folding_and_priority_reach_their_place(client: triton.InferenceServerClient) -> None:
    # Given a folded request with parameters, when it is answered, then the model was tuned by them
    answer = client.infer(
        SPEAKER,
        [texts("prompt", b"echo it")],
        model_version="1",
        priority=1,
        timeout=5_000_000,
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
        parameters={"max_tokens": 5, "temperature": "0.5", "stop": '["x"]', "seed": 3},
    )
    params = json.loads(answer.as_numpy("text")[0])["params"]
    assert params == {"max_tokens": 5, "temperature": 0.5, "stop": ["x"], "seed": 3}


def test_a_timeout_of_the_request_ends_it(client: triton.InferenceServerClient, doors: Doors) -> None:
    # Given an answer of minutes and a limit of a fifth of a second, then the status is that of a deadline
    with pytest.raises(InferenceServerException) as failure:
        client.infer(SPEAKER, [texts("prompt", b"count 20000")], timeout=200_000)
    assert failure.value.status() == "504"
    doors.service.wait(doors.is_at_rest, limit_s=20)


async def test_the_asynchronous_client_asks_several_at_once(doors: Doors) -> None:
    # Given the asynchronous client, when it asks eight questions at once, then each has its answer
    async with triton_aio.InferenceServerClient(doors.http) as client:
        wishes = [client.infer(SPEAKER, [texts("prompt", f"count {n}".encode())]) for n in range(1, 9)]
        answers = await asyncio.gather(*wishes)
    assert [len(answer.as_numpy("text")[0].split()) for answer in answers] == list(range(1, 9))


def test_shared_memory_is_refused_clearly(client: triton.InferenceServerClient) -> None:
    # Given a client that would share memory, when it registers or names a region, then it is told what to do
    with pytest.raises(InferenceServerException, match="send tensors inside the request"):
        client.register_system_shared_memory("region", "/key", 64)
    tensor = triton.InferInput("prompt", [1], "BYTES")
    tensor.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="send tensors inside the request"):
        client.infer(SPEAKER, [tensor])


def test_models_are_loaded_and_unloaded_by_name(client: triton.InferenceServerClient) -> None:
    # Given a model of a built-in type, when it is loaded, then it is ready and answers
    config = json.dumps({"parameters": {"model_type": {"string_value": "fake"}, "version": {"string_value": "3"}}})
    client.load_model("second", config=config)
    assert client.is_model_ready("second", "3")
    assert client.infer("second", [texts("prompt", b"q")]).get_response()["model_version"] == "3"

    # When it is unloaded, then it is gone; what the service was started with stays, loaded once
    client.unload_model("second")
    assert {entry["name"] for entry in client.get_model_repository_index()} == {SEER, SPEAKER}
    client.load_model(SPEAKER)
    for wrong in ("nobody", SPEAKER):
        with pytest.raises(InferenceServerException):
            client.unload_model(wrong)
    with pytest.raises(InferenceServerException, match="model_path"):
        client.load_model("nobody")
    with pytest.raises(InferenceServerException, match="MODEL_ROOTS"):
        client.load_model("files", config="{}", files={"file:1/model.onnx": b"x"})


def test_generate_takes_text_and_gives_text(doors: Doors, data_url: str) -> None:
    # Given the protocol's simplest form, when it is asked, then the text comes, with what was seen
    answer = doors.service.client.post(
        f"/v2/models/{SEER}/versions/1/generate", json={"id": "a", "text_input": "what", "image": data_url}
    ).json()
    assert answer["text_output"] == "1 frames, asked: what"
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a", SEER, "1")
    assert answer["predictions"][0]["label"] == "thing"
    cut = {"text_input": "count 9", "max_tokens": 9, "parameters": {"max_tokens": 2, "stream": False}}
    answer = doors.service.client.post(f"/v2/models/{SPEAKER}/generate", json=cut).json()
    assert (answer["text_output"], answer["finish_reason"]) == ("word0 word1 ", "length")


def test_generate_streams_events_whose_indexes_count(doors: Doors) -> None:
    # Given a client of server-sent events, when an answer is spoken, then no word is lost or doubled
    wish = {"text_input": "count 30"}
    with connect_sse(doors.service.client, "POST", f"/v2/models/{SPEAKER}/generate_stream", json=wish) as source:
        events = [event.json() for event in source.iter_sse()]
    *pieces, last = events
    assert "".join(piece["text_output"] for piece in pieces) == "".join(f"word{n} " for n in range(30))
    index = 0
    for piece in pieces:
        assert piece["index"] == index
        index += piece.get("count", 1)
    assert (last["text_output"], last["finish_reason"], last["completion_tokens"]) == ("", "stop", 30)


def test_an_error_after_the_first_event_is_an_event(doors: Doors) -> None:
    # Given a model that breaks, when it is streamed, then the last event says why; before the first it is a status
    path = f"/v2/models/{SPEAKER}/generate_stream"
    with connect_sse(doors.service.client, "POST", path, json={"text_input": "break 9"}) as source:
        events = [event.json() for event in source.iter_sse()]
    assert "broke" in events[-1]["error"]
    refused = doors.service.client.post("/v2/models/nobody/generate_stream", json={"text_input": "q"})
    assert (refused.status_code, set(refused.json())) == (404, {"error"})


def test_a_stream_that_is_left_frees_its_place(doors: Doors) -> None:
    # Given a stream of minutes, when its reader goes away after some events, then nothing of it is left
    doors.service.wait(doors.is_at_rest)
    before = doors.cancelled()
    wish = {"text_input": "count 20000", "parameters": {"max_tokens": 4000}}
    with httpx.stream("POST", f"{doors.service.url}/v2/models/{SPEAKER}/generate_stream", json=wish) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    doors.service.wait(doors.is_at_rest, limit_s=20)
    assert doors.cancelled() == before + 1


def body_of(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **more}


GOOD = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["what"]}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (body_of(), {}),
        (body_of({**GOOD, "shape": [2**40]}), {}),
        (body_of({**GOOD, "shape": [2**40, 2**40]}), {}),
        (body_of({**GOOD, "shape": [-1]}), {}),
        (body_of({**GOOD, "shape": "1"}), {}),
        (body_of({**GOOD, "datatype": "FP32", "data": [1.5]}), {}),
        (body_of({**GOOD, "data": [["what"]] * 3}), {}),
        (body_of({**GOOD, "name": "colour"}), {}),
        (body_of(GOOD, GOOD), {}),
        (body_of(GOOD, {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["bm8gcGljdHVyZQ=="]}), {}),
        (body_of(GOOD, {"name": "image", "datatype": "UINT8", "shape": [1, 1, 4], "data": [1, 2, 3, 4]}), {}),
        (body_of(GOOD, {"name": "image", "datatype": "UINT8", "shape": [9999, 9999, 3], "data": []}), {}),
        (body_of(GOOD, outputs=[{"name": "colour"}]), {}),
        (body_of(GOOD, outputs=[{"name": "text", "parameters": {"classification": 3}}]), {}),
        (body_of(GOOD, parameters={"priority": "urgent"}), {}),
        (body_of(GOOD, parameters={"timeout": -1}), {}),
        (body_of(GOOD, parameters={"max_tokens": 10**9}), {}),
        (body_of(GOOD, parameters={"sequence_id": 3}), {}),
        (body_of({**GOOD, "parameters": {"binary_data_size": 10**12}}), {}),
        (body_of(GOOD), {"inference-header-content-length": "5"}),
        (body_of(GOOD), {"inference-header-content-length": "99999"}),
        (body_of(GOOD), {"inference-header-content-length": "-3"}),
        (body_of(GOOD), {"content-encoding": "gzip"}),
        (body_of(GOOD), {"content-encoding": "br"}),
        (body_of({**GOOD, "data": [""]}), {}),
        (body_of({**GOOD, "data": ["x" * 40_000]}), {}),
    ],
)
def test_hostile_tensors_are_a_clear_4xx(doors: Doors, body: dict[str, Any], headers: dict[str, str]) -> None:
    # Given a request that does not fit, when it is posted, then it is refused in the door's shape, and the door stays
    answer = doors.service.client.post(f"/v2/models/{SEER}/infer", content=json.dumps(body), headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]


@pytest.mark.parametrize("cut", [1, 3, 5, 8])
def test_a_binary_part_that_was_cut_is_refused(doors: Doors, cut: int) -> None:
    # Given tensors as bytes of which the last are missing, when they are posted, then it is a 400
    head = json.dumps(
        body_of({"name": "prompt", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}})
    ).encode()
    data = (b"\x04\0\0\0what")[: 8 - cut]
    answer = doors.service.client.post(
        f"/v2/models/{SEER}/infer",
        content=head + data,
        headers={"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"},
    )
    assert answer.status_code == 400, answer.text
    assert "bytes are announced" in answer.json()["error"]


def test_headers_that_are_too_long_are_refused_and_the_server_lives(doors: Doors) -> None:
    # Given a header of half a million characters, when it is sent, then it is refused
    answer = httpx.get(f"{doors.service.url}/v2", headers={"x-long": "x" * 500_000})
    assert (answer.status_code, answer.json()["detail"]["code"]) == (431, "too_large")
    assert doors.service.client.get("/v2/health/live").json() == {"live": True}
