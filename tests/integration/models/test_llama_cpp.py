"""llama.cpp as a model: collected only with FREEROAM_LLAMA_CPP=1, since llama-cpp-python compiles for minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engines import running
from tests.integration.models.openai_servers import RealServer, far_model, heard, llama_server, text_question
from tests.tiny_language_models import smollm2


@pytest.fixture
async def llama(tmp_path: Path) -> AsyncIterator[RealServer]:
    server = llama_server(smollm2(), tmp_path / "server.log")
    await server.start()
    yield server
    server.kill()


@pytest.mark.timeout(240)
async def test_llama_cpp_holds_a_real_model_to_the_choices(llama: RealServer) -> None:
    async with running(far_model(llama.url)) as engine:
        chosen = [
            await engine.ask(text_question(f"Is {what} an animal?", choices=["yes it is", "no it is not"]))
            for what in ("a dog", "a stone")
        ]
        pieces, spoken = await heard(engine, text_question("Count from one to nine.", max_tokens=12, temperature=0.0))
        stopped = await engine.ask(
            text_question("Count from one to nine.", max_tokens=12, temperature=0.0, stop=[str(spoken.text)[8:12]])
        )

        info = engine.describe().info

    assert all(one.text in {"yes it is", "no it is not"} for one in chosen)
    assert "".join(piece.text for piece in pieces) == spoken.text
    assert stopped.text == str(spoken.text)[:8]
    assert info["is_listed"]
