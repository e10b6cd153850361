"""A store of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from freeroam.clock import SystemClock
from freeroam.store.store import Store
from tests.stores import opened_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path, SystemClock()) as store:
        yield store
