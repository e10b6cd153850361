"""A peer of the doors' benchmarks: a bare FastAPI application, with no keys, limits, log, metrics or model.

python benchmarks/peer_fastapi.py --port 9001 --tokens 50
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

PREDICTION = {"label": "thing", "confidence": 0.5, "bbox": [0.0, 0.0, 1.0, 1.0]}


class Question(BaseModel):
    """What is asked."""

    prompt: str
    model: str = ""
    max_tokens: int | None = None


def answer(prompt: str) -> dict[str, Any]:
    """Return the body that Freeroam's stub gives."""
    text = f"0 frames, asked: {prompt}"
    return {
        "request_id": "0123456789abcdef0123456789abcdef",
        "model": "stub",
        "version": "1",
        "tokens": [text],
        "text": text,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "predictions": [PREDICTION],
    }


def serve(port: int, tokens: int) -> None:
    """Run the application until killed."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    @app.get("/health/ready")
    async def is_ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/infer")
    async def infer(question: Question) -> dict[str, Any]:
        return answer(question.prompt)

    @app.post("/infer_stream")
    async def infer_stream(_: Question) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for index in range(tokens):
                yield f'data: {{"request_id":"0123456789abcdef","token":"word{index} ","index":{index}}}\n\n'
            yield 'event: done\ndata: {"finish_reason":"stop"}\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")

    uvicorn.run(app, port=port, log_level="critical", access_log=False)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=50)
    arguments = parser.parse_args()
    serve(arguments.port, arguments.tokens)


if __name__ == "__main__":
    main()
