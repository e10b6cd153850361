"""The OpenAPI description: every body has an example, every example is one, and every error has its shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from freeroam.api.application import create_application, describe
from freeroam.api.examples import OF_DEED, OF_DOCUMENT
from freeroam.api.parts import ApiConfig
from freeroam.observability.metrics import Metrics
from freeroam.testing import FakeClock
from freeroam.vocabulary import health, job, job_status, model, model_calls, prompt, result

DOCUMENTS = {
    name: kind
    for module in (health, job, job_status, model, model_calls, prompt, result)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, BaseModel)
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return describe(create_application(ApiConfig(), FakeClock(), Metrics()))


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


@pytest.mark.parametrize("name", OF_DOCUMENT)
def test_an_example_is_what_it_is_an_example_of(name: str) -> None:
    # Given the example of a document, when it is read as that document, then nothing of it is wrong or unknown
    document = DOCUMENTS[name].model_validate(OF_DOCUMENT[name])
    assert document.model_dump(mode="json").keys() >= OF_DOCUMENT[name].keys()


def test_every_body_has_an_example_and_no_example_is_left_over(schema: dict[str, Any]) -> None:
    # Given the description, when its bodies are looked through, then each shows what it may be
    for deed, operation in operations(schema):
        bodies = {"body": operation.get("requestBody", {}), **operation["responses"]}
        for name, body in bodies.items():
            content = body.get("content", {}).get("application/json")
            if content is None or name.startswith(("4", "5")):
                continue
            inline = content.get("schema", {})
            shape = schema["components"]["schemas"].get(inline.get("$ref", "").rpartition("/")[2], {})
            known = {*content, *shape, *inline} & {"example", "examples"}
            assert known, f"{deed}, {name}"
    assert set(OF_DEED) <= {deed for deed, _ in operations(schema)}


def test_every_error_is_described_in_the_shape_of_its_door(schema: dict[str, Any]) -> None:
    # Given the description, when the errors of a route are looked at, then each has the shape that is really told
    for deed, operation in operations(schema):
        path = deed.partition(" ")[2]
        if path.startswith("/health"):
            continue
        errors = {status: body for status, body in operation["responses"].items() if status[0] in "45"}
        assert {"400", "401", "403", "429", "500", "503"} <= set(errors), deed
        shapes = {body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2] for body in errors.values()}
        assert len(shapes) == 1, deed
        expected = "OipProblem" if path.startswith("/v2") else "OpenAIProblem" if path.startswith("/v1") else "Problem"
        assert shapes == {expected}, deed
        for status, body in errors.items():
            example = body["content"]["application/json"]["example"]
            assert example.keys() == ({"error", "detail"} if expected == "Problem" else {"error"}), f"{deed}, {status}"


def test_what_a_class_says_of_its_fields_stands_beside_them(schema: dict[str, Any]) -> None:
    # Given documents whose docstrings explain fields, when they are described, then each field has its own part
    documents = schema["components"]["schemas"]
    assert not [name for name, document in documents.items() if "Attributes:" in document.get("description", "")]
    note = documents["ModelWish"]["properties"]["keep_previous"]["description"]
    assert note == "Leave older versions loaded, and give this one no traffic yet."
    assert "\n" not in documents["StartRequest"]["properties"]["window"]["description"]


async def test_the_pages_load_nothing_from_elsewhere(connect: Callable[..., httpx.AsyncClient]) -> None:
    # Given the pages, when they are read, then they name no other server, and forbid the browser to ask one
    async with connect() as client:
        for path in ("/docs", "/redoc"):
            page = await client.get(path)
            assert page.headers["content-security-policy"].startswith("default-src 'self'")
            assert "https:" not in page.text
