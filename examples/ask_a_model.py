"""A question to a model, its answer printed as it is spoken.

python ask_a_model.py http://127.0.0.1:8000 "Once upon a time"
"""

from __future__ import annotations

import asyncio
import sys

from freeroam import AsyncClient
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.model_calls import InferToken


async def main(url: str, prompt: str) -> None:
    """Ask the server's default model."""
    async with AsyncClient(url) as client, client.infer_stream(prompt, max_tokens=100) as answer:
        async for item in answer:
            if isinstance(item, InferToken):
                print(item.token, end="", flush=True)
            else:
                print(f"\n[{item.model}@{item.version}: {item.finish_reason}, {item.usage.completion_tokens} tokens]")


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    try:
        asyncio.run(main(address, sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"))
    except FreeroamError as error:
        sys.exit(f"{error.code}: {error.message}")
