"""Put JPEG pictures of a folder on a Redis stream, for a job with ``stream_ref`` ``video_frames`` to answer about.

python publish_frames_to_redis.py /pictures
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import redis


def main(folder: str) -> None:
    """Add every picture, two a second, then say that the stream has ended."""
    client = redis.Redis()
    for path in sorted(Path(folder).glob("*.jpg")):
        entry = client.xadd("video_frames", {"frame": path.read_bytes(), "timestamp": f"{time.time():.3f}"})
        print(path.name, entry)
        time.sleep(0.5)
    client.xadd("video_frames", {"eof": "1"})


if __name__ == "__main__":
    main(sys.argv[1])
