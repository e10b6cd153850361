"""A peer of the doors' benchmarks: LitServe with one worker process and a model that does nothing.

python benchmarks/peer_litserve.py --port 9002
python benchmarks/peer_litserve.py --port 9002 --stream --tokens 50
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import litserve
from benchmarks.peer_fastapi import answer


class Whole(litserve.LitAPI):
    """Answers at once."""

    tokens = 0

    def setup(self, device: str) -> None:
        """Nothing to load."""
        self.device = device

    def decode_request(self, request):  # LitServe reads the types at run time, where these would be texts
        """Return the question."""
        return str(request["prompt"])

    def predict(self, x: str) -> Any:
        """Answer."""
        return answer(x)

    def encode_response(self, output: Any) -> Any:
        """Return what is sent."""
        return output


class Streamed(Whole):
    """Speaks ``tokens`` words as fast as they are taken."""

    def predict(self, x: str) -> Iterator[int]:  # noqa: ARG002
        """Speak."""
        yield from range(self.tokens)

    def encode_response(self, output: Iterator[int]) -> Iterator[str]:
        """Return the events."""
        for index in output:
            yield f'data: {{"request_id":"0123456789abcdef","token":"word{index} ","index":{index}}}\n\n'


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--stream", action="store_true")
    arguments = parser.parse_args()
    path = "/infer_stream" if arguments.stream else "/infer"
    api = Streamed(stream=True, api_path=path) if arguments.stream else Whole(api_path=path)
    api.tokens = arguments.tokens
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(port=arguments.port, log_level="critical", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
