"""RTSP as text: messages taken out of a byte stream, log-ins, session descriptions; pure, no connection.

RTSP 1.0 after RFC 2326, log-ins after RFC 7617 (Basic) and RFC 7616 (Digest), descriptions after RFC 8866.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 256 * 1024
MAX_JUNK_BYTES = 64 * 1024
"""Bytes between messages that belong to nothing; some cameras send a few."""

RTCP_BYE = 203
SHORTEST_BYTES = 24
"""No message is shorter."""

_BEGINNING = re.compile(rb"RTSP/[12]|HTTP/|[A-Z_]{4,13} (?:rtsps?://|\*)")
_BEGINNING_SO_FAR = re.compile(rb"[A-Z_]{1,13}(?:[ /].*)?", re.DOTALL)
_MAY_BEGIN = re.compile(rb"[$A-Z]")
_HASHES = {"md5": hashlib.md5, "sha-256": hashlib.sha256}
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]*))')
_CHALLENGE = re.compile(r"(?:^|,)\s*(Basic|Digest)\s+(?=[A-Za-z0-9_-]+\s*=)", re.IGNORECASE)
_RANGE_END = re.compile(r"npt\s*=\s*[0-9.:]+\s*-\s*([0-9.]+)\s*\Z")
_INTERLEAVED = re.compile(r"interleaved\s*=\s*(\d{1,3})(?:-(\d{1,3}))?", re.IGNORECASE)


class BadMessage(Exception):
    """What came is not RTSP, or more of it than there may be."""


@dataclass(frozen=True, slots=True)
class Message:
    """A response, or a request of the server (``status`` is 0).

    Attributes:
        status: Three digits.
        headers: Names in lower case; of names that occur twice, all values in order.
        body: As long as ``Content-Length`` says.
        start: The first line.
    """

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    start: str = ""

    def header(self, name: str) -> str:
        """Return the first value of ``name`` (lower case); empty if there is none."""
        return self.headers.get(name, [""])[0]


@dataclass(frozen=True, slots=True)
class Packet:
    """An interleaved RTP or RTCP packet; ``record`` is its 16-bit length and its bytes."""

    channel: int
    record: bytes


class Parser:
    """Takes messages and packets out of the bytes of one connection."""

    def __init__(self) -> None:
        self._left = b""
        self._junk_bytes = 0
        self._has_begun = False

    def feed(self, data: bytes) -> Iterator[Message | Packet]:
        """Give what is complete with ``data``; the rest is kept.

        Raises:
            BadMessage: It is not RTSP, or too much.
        """
        buffer = self._left + data if self._left else data
        at, size = 0, len(buffer)
        while at < size:
            if buffer[at] == 0x24:
                end = at + 4 + int.from_bytes(buffer[at + 2 : at + 4], "big") if size - at >= 4 else size + 1
                if end > size:
                    break
                yield Packet(buffer[at + 1], buffer[at + 2 : end])
            else:
                found = self._message(buffer, at)
                if found is None:
                    break
                message, end = found
                if message is not None:
                    yield message
            at = end
        self._left = buffer[at:]

    def _message(self, buffer: bytes, at: int) -> tuple[Message | None, int] | None:
        """Return the message at ``at`` and where it ends, no message for junk, None if it is not complete."""
        if not _BEGINNING.match(buffer, at):
            if len(buffer) - at < SHORTEST_BYTES and _BEGINNING_SO_FAR.fullmatch(buffer, at):
                return None
            return None, self._skip_junk(buffer, at)
        if buffer.startswith(b"HTTP/", at):
            raise BadMessage("the server speaks HTTP")
        self._has_begun = True
        head_end = buffer.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if head_end < 0:
            if len(buffer) - at > MAX_HEAD_BYTES:
                raise BadMessage("the head of a message is too large")
            return None
        message = _parse_head(buffer[at:head_end])
        length_text = message.header("content-length").strip() or "0"
        if not length_text.isascii() or not length_text.isdigit() or int(length_text) > MAX_BODY_BYTES:
            raise BadMessage("the body of a message is too large")
        end = head_end + 4 + int(length_text)
        if end > len(buffer):
            return None
        return Message(message.status, message.headers, buffer[head_end + 4 : end], message.start), end

    def _skip_junk(self, buffer: bytes, at: int) -> int:
        """Return where the next message or packet may begin."""
        found = _MAY_BEGIN.search(buffer, at + 1)
        end = found.start() if found else len(buffer)
        self._junk_bytes += end - at
        if not self._has_begun or self._junk_bytes > MAX_JUNK_BYTES:
            raise BadMessage("what came belongs to no message")
        return end


def _parse_head(head: bytes) -> Message:
    lines = head.decode("utf-8", "replace").split("\r\n")
    start = lines[0]
    parts = start.split(" ", 2)
    is_response = parts[0].startswith("RTSP/")
    if is_response and (len(parts) < 2 or not re.fullmatch(r"[1-9]\d\d", parts[1])):
        raise BadMessage("a response has no status")
    if not is_response and not start.endswith(("RTSP/1.0", "RTSP/2.0")):
        raise BadMessage("what came is not RTSP")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), []).append(value.strip())
    return Message(int(parts[1]) if is_response else 0, headers, b"", start)


class Login:
    """Answers a server's challenges with one user and password.

    Args:
        username: Not encoded.
        password: Not encoded.
        make_nonce: Gives the random text that a client adds.
    """

    def __init__(
        self, username: str, password: str, make_nonce: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        self._make_nonce = make_nonce
        self._username = username
        self._password = password
        self._digest: dict[str, str] | None = None
        self._is_basic = False
        self._uses = 0

    def take_challenge(self, values: list[str]) -> bool:
        """Choose the strongest way that ``WWW-Authenticate`` offers; returns whether there is one."""
        best: dict[str, str] | None = None
        self._is_basic = False
        for scheme, parameters in _challenges(values):
            if scheme == "basic":
                self._is_basic = True
            elif _hash_name(parameters) in _HASHES and (best is None or _hash_name(parameters) == "sha-256"):
                best = parameters
        self._digest, self._uses = best, 0
        return best is not None or self._is_basic

    def authorization(self, method: str, uri: str) -> str | None:
        """Return the value of ``Authorization`` for one request; None while nobody asked."""
        if self._digest is not None:
            return self._digest_answer(self._digest, method, uri)
        if self._is_basic:
            pair = f"{self._username}:{self._password}".encode()
            return "Basic " + base64.b64encode(pair).decode("ascii")
        return None

    def _digest_answer(self, challenge: dict[str, str], method: str, uri: str) -> str:
        make_hash = _HASHES[_hash_name(challenge)]

        def digest(text: str) -> str:
            return make_hash(text.encode()).hexdigest()

        realm, nonce = challenge.get("realm", ""), challenge.get("nonce", "")
        self._uses += 1
        count, client_nonce = f"{self._uses:08x}", self._make_nonce()
        secret = digest(f"{self._username}:{realm}:{self._password}")
        if challenge.get("algorithm", "").lower().endswith("-sess"):
            secret = digest(f"{secret}:{nonce}:{client_nonce}")
        request = digest(f"{method}:{uri}")
        has_qop = "auth" in re.split(r"[\s,]+", challenge.get("qop", "").lower())
        middle = f"{nonce}:{count}:{client_nonce}:auth" if has_qop else nonce
        fields = {"username": self._username, "realm": realm, "nonce": nonce, "uri": uri}
        fields["response"] = digest(f"{secret}:{middle}:{request}")
        if "opaque" in challenge:
            fields["opaque"] = challenge["opaque"]
        text = ", ".join(f'{name}="{_quoted(value)}"' for name, value in fields.items())
        if "algorithm" in challenge:
            text += f", algorithm={challenge['algorithm']}"
        if has_qop:
            text += f', qop=auth, nc={count}, cnonce="{client_nonce}"'
        return f"Digest {text}"


def _challenges(values: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for value in values:
        places = list(_CHALLENGE.finditer(value))
        ends = [place.start() for place in places[1:]] + [len(value)]
        for place, end in zip(places, ends, strict=False):
            text = value[place.end() : end]
            pairs = _PARAMETER.findall(text)
            yield place[1].lower(), {name.lower(): quoted or plain for name, quoted, plain in pairs}


def _hash_name(challenge: dict[str, str]) -> str:
    return challenge.get("algorithm", "MD5").lower().removesuffix("-sess")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class Description:
    """The video of a session description.

    Attributes:
        text: A description of this one video alone, for the decoder; it names no address.
        setup_uri: What ``SETUP`` asks for.
        play_uri: What ``PLAY`` asks for.
        duration_s: How long a recording is; None for what goes on without end.
        is_encrypted: Whether its packets are (SRTP), and so cannot be read.
    """

    text: bytes
    setup_uri: str
    play_uri: str
    duration_s: float | None
    is_encrypted: bool


def describe(body: bytes, base: str) -> Description | None:
    """Find the first video of the session description ``body``; None if there is none.

    Args:
        body: What ``DESCRIBE`` brought.
        base: What relative addresses in it build on.
    """
    lines = [line.strip() for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("m=")]
    session = lines[: starts[0]] if starts else lines
    for start, end in itertools.pairwise([*starts, len(lines)]):
        media = lines[start:end]
        words = media[0][2:].split()
        if len(words) < 4 or words[0].lower() != "video":
            continue
        duration_s = _duration_s([*session, *media])
        return Description(
            text=_own_text(words, media),
            setup_uri=_join(base, _control(media)),
            play_uri=_join(base, _control(session)),
            duration_s=duration_s,
            is_encrypted="SAVP" in words[2].upper(),
        )
    return None


def _own_text(words: list[str], media: list[str]) -> bytes:
    kept = [
        line for line in media[1:] if line.startswith(("b=", "a=rtpmap:", "a=fmtp:", "a=framerate:", "a=framesize:"))
    ]
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "c=IN IP4 0.0.0.0", "t=0 0"]
    lines += [f"m=video 0 RTP/AVP {' '.join(words[3:])}", *kept]
    return ("\r\n".join(lines) + "\r\n").encode()


def _control(lines: list[str]) -> str:
    values = [line[len("a=control:") :].strip() for line in lines if line.startswith("a=control:")]
    return values[0] if values else ""


def _join(base: str, control: str) -> str:
    """Return the address that ``control`` names, as cameras mean it: appended to the whole base, its query too."""
    if control in {"", "*"}:
        return base
    if control.lower().startswith(("rtsp://", "rtsps://")):
        return clean_uri(control)
    return clean_uri(f"{base}{control.lstrip('/')}" if base.endswith("/") else f"{base}/{control.lstrip('/')}")


def _duration_s(lines: list[str]) -> float | None:
    for line in lines:
        if line.startswith("a=range:") and (found := _RANGE_END.search(line)):
            try:
                return float(found[1])
            except ValueError:
                return None
    return None


def clean_uri(uri: str) -> str:
    """Return ``uri`` fit for a request line: no spaces, control characters or letters beyond ASCII."""
    return quote(uri, safe=_PRINTABLE)


def channels_of(transport: str) -> tuple[int, int] | None:
    """Return the channels of RTP and RTCP that a ``Transport`` header names; None if it is not this connection."""
    found = _INTERLEAVED.search(transport)
    if found is None or "tcp" not in transport.lower():
        return None
    first = int(found[1])
    return first, int(found[2]) if found[2] else first + 1


def says_bye(rtcp: bytes) -> bool:
    """Return whether a compound RTCP packet ends the stream (RFC 3550, 6.6)."""
    at = 0
    while at + 4 <= len(rtcp):
        if rtcp[at + 1] == RTCP_BYE:
            return True
        at += 4 + 4 * int.from_bytes(rtcp[at + 2 : at + 4], "big")
    return False


def session_of(header: str) -> tuple[str, float]:
    """Return the session's name and after how many seconds of silence it ends (60 unless told)."""
    name, _, rest = header.partition(";")
    found = re.search(r"timeout\s*=\s*(\d{1,6})", rest, re.IGNORECASE)
    return name.strip(), float(found[1]) if found and int(found[1]) > 0 else 60.0
