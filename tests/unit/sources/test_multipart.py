"""Pictures out of a camera's endless answer, however it is cut up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.multipart import MultipartParser
from freeroam.vocabulary.errors import SourceError

PICTURES = [b"\xff\xd8\xff one", b"\xff\xd8\xff two --frame in it", b"\xff\xd8\xff three\r\n\r\n"]


def body(has_length, line):
    parts = []
    for picture in PICTURES:
        length = b"Content-Length: %d" % len(picture) + line if has_length else b""
        parts.append(b"--frame" + line + b"Content-Type: image/jpeg" + line + length + line + picture + line)
    return b"".join(parts)


@given(st.integers(1, 60), st.booleans(), st.sampled_from(["frame", '"frame"', "--frame", "another", None]))
def test_parts_with_lengths_come_out_whole_however_they_arrive(size, has_crlf, boundary):
    content_type = "multipart/x-mixed-replace" + ("" if boundary is None else f"; boundary={boundary}")
    parser = MultipartParser(content_type, 1000)
    data = body(True, b"\r\n" if has_crlf else b"\n")

    taken = [part for start in range(0, len(data), size) for part in parser.feed(data[start : start + size])]

    # Whether the last one, which ends as no JPEG does, is whole is known with the next boundary.
    assert taken in (PICTURES, PICTURES[:2])
    assert [*taken, *parser.feed(b"--frame\r\n")][-1] == PICTURES[-1]


@pytest.mark.parametrize("size", [1, 5, 30, 1000])
@pytest.mark.parametrize("error", [-7, -1, 1, 7, 30, 100])
def test_a_wrong_length_costs_no_picture(size, error):
    pictures = [b"\xff\xd8\xff picture %d \xff\xd9" % number for number in range(6)]
    parts = [
        b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(picture) + error, picture)
        for picture in pictures
    ]
    data = b"".join(parts) + b"--frame\r\n" + bytes(200)
    parser = MultipartParser("multipart/x-mixed-replace; boundary=frame", 1000)

    taken = [part for start in range(0, len(data), size) for part in parser.feed(data[start : start + size])]

    assert [part.strip(b"\r\n") for part in taken[:6]] == pictures


def test_a_picture_with_its_length_is_not_kept_waiting_for_the_next_boundary():
    picture = b"\xff\xd8\xff picture \xff\xd9\0\0"
    parser = MultipartParser("multipart/x-mixed-replace; boundary=frame", 1000)

    assert list(parser.feed(b"--frame\r\nContent-Length: %d\r\n\r\n%s" % (len(picture), picture))) == [picture]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_parts_without_lengths_end_at_the_next_boundary(size):
    parser = MultipartParser("multipart/x-mixed-replace; boundary=mark", 1000)
    data = b"preamble\r\n" + b"".join(b"--mark\r\nX: y\r\n\r\npicture %d\r\n" % n for n in range(4))

    taken = [part for start in range(0, len(data), size) for part in parser.feed(data[start : start + size])]

    assert taken == [b"picture 0", b"picture 1", b"picture 2"]


@pytest.mark.parametrize(
    "data",
    [
        b"--m\r\nContent-Length: 5000\r\n\r\n",
        b"--m\r\n\r\n" + bytes(2000),
        b"--m\r\n" + b"X: y\r\n" * 5000,
        bytes(20_000),
    ],
)
def test_what_has_no_end_is_bounded(data):
    parser = MultipartParser("multipart/x-mixed-replace; boundary=m", 1000)

    with pytest.raises(SourceError) as caught:
        list(parser.feed(data))

    assert caught.value.code == "bad_data"


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_no_bytes_fail_in_another_way(pieces):
    parser = MultipartParser("multipart/x-mixed-replace; boundary=m", 100)
    code = "bad_data"
    try:
        for piece in pieces:
            list(parser.feed(piece))
    except SourceError as error:
        code = error.code
    assert code == "bad_data"
