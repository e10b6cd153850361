"""Writes src/freeroam/api/grpc/inference_pb2.py and .pyi from inference.proto.

The messages are put into a descriptor pool of their own: other packages (the protocol's official client is one) define
messages of the same names, and one pool holds each name once.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

FOLDER = Path(__file__).parents[1] / "src" / "freeroam" / "api" / "grpc"
PROTO = FOLDER / "inference.proto"
SHARED_POOL = "_descriptor_pool.Default()"
OWN_POOL = "_descriptor_pool.DescriptorPool()"
HEAD = "# mypy: ignore-errors\n"


def documents() -> dict[Path, str]:
    """Return the text of each generated file."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "protoc",
            f"-I{FOLDER}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            str(PROTO),
        ]
        if code := protoc.main(arguments):
            sys.exit(f"protoc ended with {code}")
        made = Path(folder)
        module = (made / "inference_pb2.py").read_text()
        if module.count(SHARED_POOL) != 1:
            sys.exit("protoc's output has changed: the place where it takes its pool was not found")
        return {
            FOLDER / "inference_pb2.py": HEAD + module.replace(SHARED_POOL, OWN_POOL),
            FOLDER / "inference_pb2.pyi": HEAD + (made / "inference_pb2.pyi").read_text(),
        }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
        print(f"wrote {path.name}")
