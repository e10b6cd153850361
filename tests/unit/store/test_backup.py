"""Copies that are whole, and putting them back."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from freeroam.clock import SystemClock
from freeroam.store.backup import back_up, restore
from freeroam.store.store import Store, StoreConfig
from freeroam.vocabulary.errors import ConfigurationError
from tests.unit.store.rows import new_job, row


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/freeroam.db"


async def opened(url: str) -> Store:
    store = Store(StoreConfig(url), SystemClock())
    await store.open()
    return store


async def test_a_copy_made_while_results_are_written_is_whole_and_can_be_put_back(url: str, tmp_path: Path) -> None:
    store = await opened(url)
    await store.add_job(new_job("a"))
    writing = asyncio.gather(*(store.append(row("a", str(number))) for number in range(500)))
    await asyncio.to_thread(back_up, url, tmp_path / "copy.db")
    await writing
    with pytest.raises(ConfigurationError, match=r"freeroam\.db\.lock"):
        restore(url, tmp_path / "copy.db")
    await store.close()

    kept = restore(url, tmp_path / "copy.db")

    store = await opened(url)
    found = await store.find_job("a")
    assert found is not None
    stored = await store.results_after("a", 0, 1000)
    assert [number for number, _ in stored] == list(range(1, found.job.results_count + 1))
    assert kept is not None
    with sqlite3.connect(kept) as before:
        assert before.execute("SELECT total FROM jobs").fetchone() == (500,)
    before.close()
    await store.close()


async def test_a_copy_is_put_where_there_was_nothing(url: str, tmp_path: Path) -> None:
    store = await opened(url)
    await store.add_job(new_job("a"))
    back_up(url, tmp_path / "copy.db")
    await store.close()

    elsewhere = f"sqlite:///{tmp_path}/other/freeroam.db"
    assert restore(elsewhere, tmp_path / "copy.db") is None

    store = await opened(elsewhere)
    assert await store.find_job("a") is not None
    assert (tmp_path / "other" / "freeroam.db").stat().st_mode & 0o077 == 0
    await store.close()


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_what_is_no_copy_is_refused_and_nothing_is_touched(url: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "copy.db").write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"copy\.db"):
        restore(url, tmp_path / "copy.db")
    with pytest.raises(ConfigurationError, match="there is no file"):
        restore(url, tmp_path / "none.db")

    assert not (tmp_path / "data").exists()


async def test_a_copy_never_overwrites(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no database"):
        back_up(url, tmp_path / "copy.db")
    await (await opened(url)).close()
    (tmp_path / "copy.db").write_text("mine")

    with pytest.raises(ConfigurationError, match="is there already"):
        back_up(url, tmp_path / "copy.db")

    assert (tmp_path / "copy.db").read_text() == "mine"
