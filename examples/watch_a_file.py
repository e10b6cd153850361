"""Questions to a video from Python, without a server.

python watch_a_file.py demo:
MEDIA_ROOT=/videos python watch_a_file.py file:gate.mp4
"""

from __future__ import annotations

import asyncio
import sys

from freeroam import watch


async def main(stream_ref: str) -> None:
    """Print ten answers."""
    count = 0
    async for result in watch(stream_ref, "Detect all people and vehicles", fps=2):
        print(f"{result.metadata.stream_time:7.2f} s  {result.text}")
        count += 1
        if count == 10:
            break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "demo:"))
