"""A store on a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from freeroam.clock import Clock
from freeroam.store.store import Store, StoreConfig


@asynccontextmanager
async def opened_store(folder: Path, clock: Clock) -> AsyncIterator[Store]:
    """Open a store on ``freeroam.db`` in ``folder``, and close it."""
    store = Store(StoreConfig(f"sqlite:///{folder}/freeroam.db"), clock)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
