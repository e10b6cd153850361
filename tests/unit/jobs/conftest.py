"""A desk on a real store in a temporary folder, with a model and sources that do what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from freeroam.clock import SystemClock
from tests.unit.jobs.fakes import Workplace


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Workplace]:
    workplace = await Workplace(tmp_path, SystemClock()).open()
    yield workplace
    await workplace.close()
