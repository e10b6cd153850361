"""Models are swapped in a real service under clients and video jobs, and nobody notices."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import pytest

from freeroam.client import AsyncClient, Retries
from freeroam.vocabulary.job import Policy
from freeroam.vocabulary.model import ModelState
from freeroam.vocabulary.model_calls import InferToken
from tests.e2e.service import Service, running

SWAPS = 3
CONNECTIONS = 16
TOKENS = 20
TEXT = "".join(f"word{number} " for number in range(TOKENS))
OPTIONS = {"fake": {"latency_ms": 20.0}, "speaker": {"tokens": TOKENS, "token_latency_ms": 10.0}}
FPS = 2.0


@contextmanager
def served(folder: Path) -> Iterator[Service]:
    with running(folder, MAX_BATCH_SIZE="32") as service:
        service.wait_ready()
        yield service


class Crowd:
    """Clients that ask until they are told to end; any fault is raised in them."""

    def __init__(self, client: AsyncClient) -> None:
        self.versions: Counter[str] = Counter()
        self._client = client
        self._is_over = False
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(CONNECTIONS)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def have_heard(self, *versions: str) -> None:
        while not {f"{name}@{version}" for name in OPTIONS for version in versions} <= self.versions.keys():
            for task in self._tasks:
                assert not task.done(), task.result()
            await asyncio.sleep(0.05)

    async def _ask_on(self, number: int) -> None:
        while not self._is_over:
            if number % 2:
                self.versions[f"speaker@{await self._listen()}"] += 1
                continue
            model = "fake" if number % 4 == 0 else "speaker"
            answer = await self._client.infer("go on", model)
            assert answer.text == (TEXT if model == "speaker" else "0 frames, asked: go on")
            assert "".join(answer.tokens) == answer.text
            self.versions[f"{model}@{answer.version}"] += 1

    async def _listen(self) -> str:
        texts = []
        async with self._client.infer_stream("go on", "speaker") as stream:
            async for item in stream:  # the client raises where an index is not the next one
                if not isinstance(item, InferToken):
                    assert "".join(texts) == TEXT
                    assert item.usage.completion_tokens == TOKENS
                    return item.version
                texts.append(item.token)
        raise AssertionError("a stream ended without its end")


async def begin_jobs(client: AsyncClient) -> list[str]:
    jobs = []
    for model, policy in itertools.product(OPTIONS, ("block", "latest")):
        started = await client.start_job("demo:", "what is there", fps=FPS, model=model, policy=policy)  # type: ignore[arg-type]
        jobs.append(started.job_id)
    return jobs


async def have_two_more_results(client: AsyncClient, jobs: list[str]) -> None:
    for job in jobs:
        before = (await client.results(job)).total_results
        while (await client.results(job)).total_results < before + 2:
            await asyncio.sleep(0.1)


async def job_that_noticed_nothing(client: AsyncClient, job_id: str) -> set[str]:
    """Check everything that a job has stored; return the versions that answered it."""
    status = await client.job_status(job_id)
    results = [result async for result in client.iterate_results(job_id)]
    assert (status.error, status.source.reconnects) == (None, 0)
    assert [result.id for result in results] == list(range(1, len(results) + 1))
    assert [result.error for result in results] == [None] * len(results)
    if status.model == "speaker":
        assert {result.text for result in results} == {TEXT}
    times_s = [result.metadata.stream_time for result in results]
    steps = [round((after - before) * FPS) for before, after in itertools.pairwise(times_s)]
    assert min(steps) == 1, times_s
    dropped = (await client.job_status(job_id)).frames_dropped
    if status.policy is Policy.BLOCK:
        assert (max(steps), dropped) == (1, {}), times_s
    # A model that is slow, as on a busy machine, costs the others frames, which are counted.
    assert sum(steps) - len(steps) <= sum(dropped.values())
    return {result.metadata.model_version for result in results}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("unload_first", [False, True])
async def test_swaps_under_clients_and_video_jobs_are_noticed_by_nobody(tmp_path: Path, unload_first: bool) -> None:
    with served(tmp_path) as service:
        async with AsyncClient(service.url, retries=Retries(attempts=1)) as client:
            # Given two models with busy connections and video jobs on both
            first = await client.load_model(
                "speaker", "1", model_type="fake", options=OPTIONS["speaker"], max_batch_size=32
            )
            assert first.state is ModelState.READY
            async with Crowd(client) as crowd:
                jobs = await begin_jobs(client)
                await crowd.have_heard("1")
                gone = service.children("freeroam.engines.replica")

                # When both are swapped again and again
                for version in range(2, SWAPS + 2):
                    for name, options in OPTIONS.items():
                        await client.load_model(
                            name, str(version), model_type="fake", options=options, max_batch_size=32,
                            unload_first=unload_first,
                        )  # fmt: skip
                    await crowd.have_heard(str(version))
                await have_two_more_results(client, jobs)

                # Then no client and no job saw anything of it but the versions
                await crowd.end()
                for job in jobs:
                    versions = await job_that_noticed_nothing(client, job)
                    assert str(SWAPS + 1) in versions
                # And nothing of the old versions is left
                service.wait(lambda: len(service.children("freeroam.engines.replica")) == len(OPTIONS))
                assert not any(psutil.pid_exists(process.pid) for process in gone)
                loaded = await client.list_models()
                assert {name: list(model.versions) for name, model in loaded.models.items()} == {
                    name: [str(SWAPS + 1)] for name in OPTIONS
                }
                assert 'version="2"' not in await client.metrics()
        assert '"level":"error"' not in service.log()
