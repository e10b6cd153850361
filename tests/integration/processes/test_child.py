"""Children and the wire to them, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from freeroam.processes.child import ChildProcess, thread_environment
from tests.waiting import until

MODULE = "tests.integration.processes.echo_child"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def child() -> AsyncIterator[ChildProcess]:
    started = await ChildProcess.start(MODULE, ["one", "two"], name="echo", env=thread_environment(3))
    yield started
    await started.aclose()


async def test_a_child_hears_its_arguments_and_its_environment(child: ChildProcess) -> None:
    hello = await child.wire.receive()

    assert hello == {"kind": "hello", "args": ["one", "two"], "threads": "3"}


@pytest.mark.parametrize("size", [0, 1, 4096, 65_535, 65_536, 700_000, 5_000_000])
async def test_blobs_come_back_as_they_were(child: ChildProcess, size: int) -> None:
    blob = os.urandom(size)
    await child.wire.receive()

    child.wire.send({"kind": "echo", "n": 1, "blobs": [blob, b"x", memoryview(blob)]})
    child.wire.send({"kind": "echo", "n": 2})
    first, second = await child.wire.receive(), await child.wire.receive()

    assert first is not None
    assert [bytes(b) for b in first["blobs"]] == [blob, b"x", blob]
    assert second == {"kind": "echo", "n": 2}


async def test_many_messages_keep_their_order(child: ChildProcess) -> None:
    await child.wire.receive()

    for number in range(3000):
        child.wire.send({"kind": "echo", "n": number, "text": "x" * (number % 300)})
    await child.wire.drain()
    received = [await child.wire.receive() for _ in range(3000)]

    assert [message["n"] for message in received if message] == list(range(3000))
    assert child.wire.waiting_bytes == 0


async def test_the_last_words_of_a_child_arrive_before_its_end(child: ChildProcess) -> None:
    await child.wire.receive()

    child.wire.send({"kind": "last word"})

    assert await child.wire.receive() == {"kind": "farewell"}
    assert await child.wire.receive() is None
    assert await child.wait() == 3


async def test_a_killed_child_is_noticed(child: ChildProcess) -> None:
    await child.wire.receive()

    os.kill(child.pid, signal.SIGKILL)

    assert await child.wire.receive() is None
    assert await child.wait() == -signal.SIGKILL
    child.wire.send({"kind": "echo"})
    await child.wire.drain()


@pytest.mark.parametrize("end", ["killed", "closed", "last word"])
async def test_what_a_child_started_ends_with_it(child: ChildProcess, end: str) -> None:
    await child.wire.receive()
    child.wire.send({"kind": "spawn"})
    spawned = await child.wire.receive()
    assert spawned is not None
    grandchild = psutil.Process(spawned["pid"])

    if end == "killed":
        os.kill(child.pid, signal.SIGKILL)
    elif end == "closed":
        await child.aclose()
    else:
        child.wire.send({"kind": "last word"})

    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the state of every thread")
async def test_a_stopped_child_stands_still_and_one_at_work_does_not(child: ChildProcess) -> None:
    await child.wire.receive()
    child.wire.send({"kind": "toil"})
    await until(lambda: not child.stands_still)

    os.kill(child.pid, signal.SIGSTOP)

    await until(lambda: child.stands_still)


async def test_a_stopped_child_can_be_closed(child: ChildProcess) -> None:
    await child.wire.receive()
    os.kill(child.pid, signal.SIGSTOP)

    child.wire.send({"kind": "echo", "blobs": [bytes(3_000_000)]})
    await child.aclose(grace_s=0.2)

    assert child.returncode == -signal.SIGKILL


async def test_a_child_whose_wire_closes_may_end_by_itself(child: ChildProcess) -> None:
    await child.wire.receive()

    await child.aclose(grace_s=20.0)

    assert child.returncode == 0


async def test_what_a_child_prints_is_logged_and_does_not_break_the_wire(child: ChildProcess) -> None:
    await child.wire.receive()

    child.wire.send({"kind": "print", "text": "hello\n" + "y" * 100_000 + "\nlast"})

    assert await child.wire.receive() == {"kind": "printed"}
    await until(lambda: "last" in child.last_lines)


async def test_garbage_from_a_child_closes_the_wire(child: ChildProcess) -> None:
    await child.wire.receive()

    child.wire.send({"kind": "garble"})

    assert await child.wire.receive() is None
    assert child.wire.failure


async def test_nothing_is_left_after_many_children() -> None:
    me = psutil.Process()
    descriptors = me.num_fds()

    for _ in range(3):
        started = await ChildProcess.start(MODULE, name="echo")
        await started.wire.receive()
        await started.aclose()

    await until(lambda: me.num_fds() <= descriptors + 1)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("echo")] == []


def test_a_child_ends_when_its_parent_is_killed_and_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT)!r}]
        from freeroam.processes.child import ChildProcess
        async def main():
            child = await ChildProcess.start({MODULE!r}, name="echo")
            await child.wire.receive()
            print(child.pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
        """)
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))

    parent.kill()
    parent.wait()

    child.wait(timeout=20)
