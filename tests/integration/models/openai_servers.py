"""Servers of the OpenAI API for tests: real ones in processes of their own, and one that misbehaves as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from freeroam.engines.specs import ModelSpec
from freeroam.vocabulary.inference import InferenceParams, Output, Piece
from tests.engines import question
from tests.servers import free_port
from tests.waiting import until

START_LIMIT_S = 80.0
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Behaviour = Callable[["Call"], Awaitable[None]]


class RealServer:
    """A program that serves the API; may be killed and started again on the same port."""

    def __init__(self, command: list[str], log: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        await until(self._answers, START_LIMIT_S, 0.2)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def is_idle(self) -> bool:
        """Whether it computes nothing: less than a tenth of a core over half a second."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        before_s = sum(process.cpu_times()[:2])
        await asyncio.sleep(0.5)
        return sum(process.cpu_times()[:2]) - before_s < 0.05

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()[-2000:]
        return await asyncio.to_thread(self._is_heard)

    def _is_heard(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


def transformers_serve(model: Path, log: Path) -> RealServer:
    port = free_port()
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    return RealServer(command, log, port)


def llama_server(model: Path, log: Path) -> RealServer:
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "1024", "--n_threads", "1"]
    # Left on, a second question ends the first one's answer in the middle.
    options += ["--interrupt_requests", "false"]
    return RealServer([sys.executable, "-m", "llama_cpp.server", "--model", str(model), *options], log, port)


class Call:
    """One question at the hostile server."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes, reader: Reader, writer: Writer) -> None:
        self.path = path
        self.headers = headers
        self.body: dict[str, Any] = json.loads(body) if body else {}
        self._reader = reader
        self._writer = writer

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.send(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n{more}\r\n".encode())

    async def refuse(self, status: int, body: Any = None, **headers: str) -> None:
        await self.head(status, "application/json", **headers)
        await self.send(json.dumps(body if body is not None else {"error": {"message": "no"}}).encode())

    async def chunk(self, text: str | None = None, finish: str | None = None, **more: Any) -> None:
        delta = {} if text is None else {"content": text}
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
        await self.send(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def say(self, *texts: str, finish: str = "stop") -> None:
        await self.head()
        for text in texts:
            await self.chunk(text)
        await self.chunk(finish=finish)
        await self.send(b"data: [DONE]\n\n")

    async def until_gone(self, *texts: str) -> None:
        """Say texts, then nothing more, until the client closes the connection.

        It may do so at any of them, and what it has not read then makes a reset of its closing.
        """
        with contextlib.suppress(ConnectionError):
            for text in texts:
                await self.chunk(text)
            while await self._reader.read(1024):
                pass


class HostileServer:
    """Does to each question what the next behaviour says, and the last one for ever.

    Attributes:
        calls: The questions that came.
        gone: How many connections the client closed while it was being answered.
    """

    def __init__(self, *behaviours: Behaviour, models: Behaviour | None = None) -> None:
        self.behaviours = list(behaviours)
        self.models = models
        self.calls: list[Call] = []
        self.looks: list[Call] = []
        self.open = 0
        self.url = ""

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length") or 0))
            call = Call(request.split(" ")[1], headers, body, reader, writer)
            if call.path.endswith("/models"):
                self.looks.append(call)
                await (self.models or _list_models)(call)
            else:
                self.calls.append(call)
                behaviour = self.behaviours[min(len(self.calls), len(self.behaviours)) - 1]
                await behaviour(call)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator[HostileServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, **options)
        scheme = "https" if "ssl" in options else "http"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 2.0)


async def _list_models(call: Call) -> None:
    await call.refuse(200, {"object": "list", "data": [{"id": "first"}, {"id": "second"}]})


def far_model(url: str, **options: Any) -> ModelSpec:
    return ModelSpec("far", model_type="openai_server", model_path=url, max_batch=64, options=options)


def text_question(prompt: str = "Say something", **params: Any) -> Any:
    return question(prompt, frames=(), params=InferenceParams(**params))


async def heard(engine: Any, asked: Any) -> tuple[list[Piece], Output]:
    items = [item async for item in engine.stream(asked)]
    return items[:-1], items[-1]
