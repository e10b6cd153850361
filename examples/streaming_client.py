"""Tokens as they come, with nothing but an HTTP library.

python streaming_client.py http://127.0.0.1:8000 gpt2

This is the shape of a client that reads line by line. It asks ``/infer_stream``; ``/infer`` gives the whole answer at
once. ``freeroam.AsyncClient.infer_stream`` does the same with types, retries and an account of every token.
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp


async def stream_inference(url: str, model: str) -> None:
    """Print an answer as it is spoken."""
    async with aiohttp.ClientSession() as session:
        payload = {"prompt": "Once upon a time", "max_tokens": 100}
        if model:
            payload["model"] = model
        async with session.post(f"{url}/infer_stream", json=payload) as resp:
            if resp.status != 200:
                sys.exit(f"{resp.status}: {(await resp.json())['error']}")
            kind = "message"
            async for line in resp.content:
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    kind = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    told = json.loads(text.removeprefix("data: "))
                    if kind == "message":
                        print(told["token"], end="", flush=True)
                    elif kind == "done":
                        print(f"\n[{told['finish_reason']}, {told['usage']['completion_tokens']} tokens]")
                    else:
                        sys.exit(f"\n{told['error']}")


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    asyncio.run(stream_inference(address, sys.argv[2] if len(sys.argv) > 2 else ""))
