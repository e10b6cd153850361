"""Versions of prompts, global and of a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from freeroam.prompts.library import PromptConfig, PromptLibrary
from freeroam.store.store import Store
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import InvalidInput, NotFound
from tests.stores import opened_store
from tests.unit.store.rows import new_job
from tests.waiting import until


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path, FakeClock()) as store:
        yield store


@pytest.fixture
async def library(store: Store) -> PromptLibrary:
    made = PromptLibrary(store, PromptConfig(max_chars=100), FakeClock(epoch_s=1_700_000_000.0))
    await made.load()
    return made


async def test_versions_count_up_and_history_is_newest_first(library: PromptLibrary) -> None:
    for text in ("one", "two", "three"):
        await library.update(text)

    history, total = await library.history(2)

    assert [(prompt.prompt, prompt.version) for prompt in history] == [("three", 3), ("two", 2)]
    assert total == 3
    assert await library.current() == history[0] == library.resolve(None)


async def test_a_prompt_has_the_shape_of_the_contract(library: PromptLibrary) -> None:
    prompt = await library.update("Detect")

    assert prompt.model_dump() == {
        "prompt": "Detect",
        "version": 1,
        "timestamp": 1_700_000_000.0,
        "created_at": "2023-11-14T22:13:20.000Z",
        "updated_at": "2023-11-14T22:13:20.000Z",
        "job_id": None,
    }


async def test_the_previous_text_can_be_taken_out_and_its_number_is_not_used_again(library: PromptLibrary) -> None:
    await library.update("one")
    await library.update("secret")

    third = await library.update("three", preserve_previous=False)
    fourth = await library.update("four", preserve_previous=False)

    history, total = await library.history()
    assert (third.version, fourth.version) == (3, 4)
    assert ([prompt.version for prompt in history], total) == ([4, 1], 2)
    assert third.created_at == history[1].created_at


async def test_a_job_falls_back_to_the_global_prompt_until_it_has_its_own(library: PromptLibrary, store: Store) -> None:
    await library.update("global")
    await store.add_job(new_job("other"))

    assert (await library.current("unknown")) == library.resolve("unknown")
    await library.follow("other")
    assert library.resolve("other").prompt == "x"
    own = await library.update("own", job_id="other")

    assert (own.version, own.job_id) == (2, "other")
    assert await library.current("other") == own == library.resolve("other")
    assert (await library.history(10, "other"))[1] == 2
    assert (await library.history(10))[1] == 1


async def test_a_prompt_of_an_unknown_job_is_refused(library: PromptLibrary) -> None:
    with pytest.raises(NotFound, match="Job none not found"):
        await library.update("x", job_id="none")


@pytest.mark.parametrize("text", ["", "  \n\t ", "x" * 101, "a\x00b"])
async def test_a_text_that_cannot_be_a_prompt_is_refused(library: PromptLibrary, text: str) -> None:
    with pytest.raises(InvalidInput):
        await library.update(text)
    assert await library.current() is None


async def test_the_global_prompt_survives_a_restart(library: PromptLibrary, store: Store) -> None:
    await library.update("kept")

    again = PromptLibrary(store, PromptConfig(), FakeClock())
    await again.load()

    assert again.resolve(None) is not None
    assert again.resolve(None) == await library.current()


async def test_an_older_version_never_takes_the_place_of_a_newer_one(library: PromptLibrary) -> None:
    first = await library.update("one")
    second = await library.update("two")

    library.adopt(first)

    assert library.resolve(None) == second


async def test_prompts_of_jobs_that_do_not_run_are_not_held_in_memory(library: PromptLibrary, store: Store) -> None:
    await library.update("global")
    await store.add_job(new_job("a"))
    await library.follow("a")
    await library.update("own", job_id="a")

    library.forget("a")
    await library.update("later", job_id="a")

    assert library.resolve("a").prompt == "global"
    assert library._own == {}


@pytest.mark.parametrize("turns", range(5))
async def test_a_version_whose_caller_goes_away_is_both_stored_and_asked_with(
    library: PromptLibrary, turns: int
) -> None:
    # Given a caller whose time is up while the next version is stored
    await library.update("one")
    caller = asyncio.create_task(library.update("two"))
    for _ in range(turns):
        await asyncio.sleep(0)
    has_begun = turns > 0
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    # Then jobs ask with what the store shows
    await until(lambda: not library._updates)
    assert library.resolve(None) == await library.current()
    assert library.resolve(None).prompt == ("two" if has_begun else "one")
