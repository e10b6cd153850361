"""Thousands of generated calls against the real process: no defect shows, every refusal has the contract's shape."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.generation import GenerationMode

from tests.e2e.service import Service, running

SEED = 20_261_121
EXAMPLES_AN_OPERATION = 110
LEAST_CALLS = 5000
CALL_LIMIT_S = 20.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("generated")
    limits = {"MAX_CONCURRENT_STREAMS": "5", "MAX_BODY_BYTES": "1000000", "LOG_LEVEL": "WARNING"}
    with running(folder, **limits) as service:
        service.wait_ready()
        service.client.post("/api/v1/prompt/update", json={"prompt": "Detect all people"})
        for job_id in ("0", "1", "a"):  # short ids are what generators come to first
            service.start_job(stream_ref="demo:", prompt="Detect all people", job_id=job_id)
        yield service


@pytest.mark.timeout(600)
def test_no_generated_call_shows_a_defect(service: Service) -> None:
    # Given a running service with jobs, and its own description
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    counts: Counter[str] = Counter()

    # When every operation is called with data that fits its description, and with data that does not
    with requests.Session() as session:
        for operation in operations:
            for mode in GenerationMode:
                _call_often(operation, mode, session, service, counts)

    # Then at least 5,000 calls were made, and the service still answers
    calls = sum(counts.values()) - counts["not sendable"]
    print(f"{calls} calls of {len(operations)} operations: {dict(sorted(counts.items()))}")
    assert calls >= LEAST_CALLS
    assert len(operations) >= 14
    assert service.client.get("/health/live").status_code == 200
    assert '"level":"error"' not in service.log()


def _call_often(
    operation: Any, mode: GenerationMode, session: requests.Session, service: Service, counts: Counter[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            strategy = operation.as_strategy(generation_mode=mode)
            strategy.validate()
        except Exception:
            if mode is GenerationMode.POSITIVE:
                raise
            return  # an operation without input cannot be called with wrong input

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES_AN_OPERATION,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def call(case: Any) -> None:
            counts[_call_once(case, session, service)] += 1

        try:
            call()
        except Exception as error:
            if type(error).__name__ not in {"Unsatisfiable", "SkipTest"}:
                raise


def _call_once(case: Any, session: requests.Session, service: Service) -> str:
    arguments = case.as_transport_kwargs(base_url=service.url)
    try:
        answer = session.request(**arguments, timeout=CALL_LIMIT_S, stream=True)
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
        return "not sendable"
    with answer:
        status = answer.status_code
        is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
        body = b"" if is_stream else answer.content
        asked = f"{case.method} {case.formatted_path} {arguments.get('params')} {arguments.get('json')}"
        told = f"{asked} -> {status} {body[:500]!r}"
        assert status < 500 or status == 503, told
        assert status != 422, told
        if status >= 400:
            assert answer.headers["content-type"].startswith("application/json"), told
            problem = answer.json()
            door = case.path.split("/")[1]
            fields = {"error"} if door in {"v1", "v2"} else {"error", "detail"}
            assert set(problem) == fields or case.path == "/health/ready", told
            assert isinstance(problem.get("error", ""), dict if door == "v1" else str), told
            assert "Traceback" not in answer.text, told
        assert answer.headers.get("x-request-id"), told
    return str(status)
