"""Messages are cut out of any splitting of the bytes."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freeroam.processes.wire import MAX_MESSAGE_BYTES, BlockingWire, Deframer, Message, Wire, pack, socket_pair
from freeroam.vocabulary.errors import TooLarge

MESSAGES: list[Message] = [
    {"n": 1},
    {"n": 2, "blobs": [b"ab", b"", b"c"]},
    {"n": 3, "blobs": [bytes(100_000)]},
    {"n": 4, "text": "z" * 70_000},
    {"n": 5},
]


def plain(message: Message) -> Message:
    return {key: [bytes(blob) for blob in value] if key == "blobs" else value for key, value in message.items()}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 90_000), min_size=1, max_size=20))
def test_any_splitting_gives_the_same_messages(steps: list[int]) -> None:
    data = b"".join(bytes(buffer) for message in MESSAGES for buffer in pack(message))
    deframer, received, at, turn = Deframer(), [], 0, 0

    while at < len(data):
        space = deframer.space()
        count = min(len(space), steps[turn % len(steps)], len(data) - at)
        space[:count] = data[at : at + count]
        received += [message for message, _ in deframer.advance(count)]
        at, turn = at + count, turn + 1

    assert [plain(message) for message in received] == MESSAGES


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x01\0\0\0\0\0\0\0\x01",
        b"\x03\0\0\0\0\0\0\0\x92\x80\x90"[:-1] + b"\xc1",
        pack({"n": 1})[0][:4] + b"\x01\0\0\0" + bytes(pack({"n": 1})[0][8:]) + b"x",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    deframer = Deframer()
    deframer.space()[: len(data)] = data

    with pytest.raises(Exception):  # noqa: B017,PT011  msgpack raises classes of its own
        deframer.advance(len(data))


def test_a_message_over_the_limit_is_not_sent() -> None:
    half = bytes(MAX_MESSAGE_BYTES // 2)

    with pytest.raises(TooLarge, match="limit"):
        pack({"blobs": [half, half]})


def test_a_picture_view_of_any_shape_travels_flat() -> None:
    picture = memoryview(bytes(range(12))).cast("B", (2, 2, 3))

    buffers = pack({"blobs": [picture]})

    assert bytes(buffers[1]) == bytes(range(12))


def test_a_blocking_receive_tells_silence_from_the_end() -> None:
    ours, theirs = socket_pair()
    wire = BlockingWire(ours)

    assert wire.receive(timeout_s=0.0) is None
    assert not wire.is_closed

    theirs.sendall(b"".join(bytes(part) for part in pack({"n": 1})))
    theirs.shutdown(socket.SHUT_RDWR)

    assert wire.receive() == {"n": 1}
    assert wire.receive() is None
    assert wire.is_closed
    wire.send({"n": 2})
    wire.close()
    theirs.close()


def test_all_that_is_ready_is_taken_at_once() -> None:
    ours, theirs = socket_pair()
    one, other = BlockingWire(ours), BlockingWire(theirs)

    for number in range(5):
        other.send({"n": number})

    assert [message["n"] for message in one.receive_ready()] == [0, 1, 2, 3, 4]
    assert one.receive_ready() == []
    one.close()
    other.close()


async def test_open_files_travel_with_the_messages_that_name_them(tmp_path) -> None:
    ours, theirs = socket_pair()
    wire, other = Wire(ours), BlockingWire(theirs)
    files = []
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        files.append(os.open(tmp_path / name, os.O_RDONLY))

    wire.send({"n": 0, "blobs": [bytes(1000)]})
    wire.send({"n": 1}, [files[0]])
    wire.send({"n": 2})
    wire.send({"n": 3}, [files[1]])
    await wire.drain()
    for file in files:
        os.close(file)

    assert [message["n"] for message in other.receive_ready()] == [0, 1, 2, 3]
    for expected in (b"a", b"b"):
        arrived = other.take_descriptor()
        assert os.read(arrived, 10) == expected
        assert not os.get_inheritable(arrived)
        os.close(arrived)
    with pytest.raises(OSError, match="did not arrive"):
        other.take_descriptor()
    wire.close()
    other.close()
