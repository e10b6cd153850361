"""A store of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from freeroam.clock import SystemClock
from freeroam.store.store import Store, StoreConfig


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), SystemClock())
    await opened.open()
    yield opened
    await opened.close()
