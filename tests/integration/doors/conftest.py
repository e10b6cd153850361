"""One real service with a model that speaks and one that sees, for the clients that people really use."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from tests.e2e.service import Service, running
from tests.servers import free_port

SPEAKER, SEER = "Speaker", "seer"
SPEAKER_TYPE = "tests.integration.doors.speaker:Speaker"


@dataclass
class Doors:
    """Where the doors of one service are."""

    service: Service
    grpc: str

    @property
    def http(self) -> str:
        """As Triton's HTTP client wants it."""
        return f"127.0.0.1:{self.service.port}"

    def is_at_rest(self) -> bool:
        """Whether no call is being answered and none waits."""
        status = self.service.client.get("/status").json()
        return status["calls"] == 0 and status["streams"] == 0 and not any(status["queues"].values())

    def cancelled(self) -> float:
        """How many calls were left by their callers."""
        return self.counted("freeroam_requests_total", 'status="cancelled"')

    def counted(self, name: str, label: str) -> float:
        """The sum of a counter over all samples with that label."""
        lines = self.service.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f"{name}{{") and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.fixture(scope="package")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    port = free_port()
    with running(tmp_path_factory.mktemp("doors"), MODEL_TYPE=SPEAKER_TYPE, GRPC_PORT=str(port)) as service:
        service.wait_ready()
        loaded = service.client.post("/api/v1/models", json={"name": SEER, "model_type": "fake"})
        assert loaded.status_code == 201, loaded.text
        yield Doors(service, f"127.0.0.1:{port}")
        # Whatever was asked of it, nothing of it was a defect.
        assert '"level":"error"' not in service.log()


@pytest.fixture
def picture() -> bytes:
    """A PNG of 12 rows and 16 columns."""
    file = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), 200, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
