"""One RTSP session: connect, describe, set up the video over this very connection, play, keep alive.

We speak RTSP here and hand the decoder nothing but packets, because FFmpeg follows redirects to wherever a server says
and offers no hook. Every address, redirects included, is dialled by ``security/dialing.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from urllib.parse import urljoin

from freeroam.clock import Clock
from freeroam.security.dialing import Connection, Dialer
from freeroam.security.url_policy import ParsedTarget
from freeroam.sources.rtsp_messages import (
    BadMessage,
    Description,
    Login,
    Message,
    Packet,
    Parser,
    channels_of,
    clean_uri,
    describe,
    says_bye,
    session_of,
)
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput, SourceError, SourceErrorCode

SCHEMES = frozenset({"rtsp", "rtsps"})
MAX_REDIRECTS = 5
READ_BYTES = 64 * 1024
USER_AGENT = "freeroam"
KEEP_ALIVE_LEAST_S = 5.0
FAREWELL_S = 0.2
"""What a server gets to take our ``TEARDOWN`` before the connection is dropped."""
PATIENCE_S = 5.0
"""How long a server may leave our answers to its own requests unread."""
MAX_EARLY_PACKETS = 4096
MAX_EARLY_BYTES = 4 * 2**20
"""Packets kept that come before the answer to ``PLAY``."""

_CODES = {
    401: SourceErrorCode.AUTH,
    403: SourceErrorCode.AUTH,
    404: SourceErrorCode.NOT_FOUND,
    410: SourceErrorCode.NOT_FOUND,
}


@dataclass(slots=True)
class _State:
    """What the server told of the session."""

    session_id: str = ""
    timeout_s: float = 60.0
    methods: str = ""
    channels: tuple[int, int] = (0, 1)
    waiting: dict[int, str] = field(default_factory=dict)


class _Redirected(Exception):
    """The server says that the video is elsewhere."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


class RtspSession:
    """A session that plays.

    Args:
        target: Where it was connected to.
        connection: Open.
        clock: Time.

    Attributes:
        description: The video; set once it is known.
    """

    def __init__(self, target: ParsedTarget, connection: Connection, clock: Clock) -> None:
        self.description: Description | None = None
        self._target = target
        self._uri = clean_uri(target.url)
        self._reader, self._writer = connection
        self._clock = clock
        self._parser = Parser()
        self._ready: list[Message | Packet] = []
        self._early: list[Packet] = []
        self._early_bytes = 0
        self._sequence = 0
        self._state = _State()
        has_login = target.username is not None
        self._login = Login(target.username or "", target.password or "") if has_login else None

    async def play(self) -> None:
        """Go from an open connection to packets that come.

        Raises:
            SourceError: ``auth``, ``not_found``, ``no_video``, ``codec``, ``server``, ``unavailable`` or ``bad_data``.
            _Redirected: The video is elsewhere.
        """
        options = await self._ask("OPTIONS", self._uri, must_succeed=False)
        self._state.methods = options.header("public").upper()
        answer = await self._ask("DESCRIBE", self._uri, {"Accept": "application/sdp"})
        base = answer.header("content-base") or answer.header("content-location") or self._uri
        self.description = describe(answer.body, clean_uri(base))
        if self.description is None:
            raise SourceError(SourceErrorCode.NO_VIDEO, f"{self._target.shown} offers no video")
        if self.description.is_encrypted:
            raise SourceError(SourceErrorCode.CODEC, f"{self._target.shown} offers encrypted video (SRTP) only")
        wanted = {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"}
        answer = await self._ask("SETUP", self.description.setup_uri, wanted)
        channels = channels_of(answer.header("transport"))
        if channels is None:
            raise SourceError(SourceErrorCode.UNAVAILABLE, f"{self._target.shown} does not offer video over TCP")
        self._state.channels = channels
        self._state.session_id, self._state.timeout_s = session_of(answer.header("session"))
        await self._ask("PLAY", self.description.play_uri, {"Range": "npt=0.000-"})

    async def records(self) -> AsyncGenerator[bytes, None]:
        """Give the video's RTP packets, several at once as they come, each behind its 16-bit length.

        Ends when the server closes the connection or the session, or says farewell by RTCP. Other RTCP packets are left
        out: by their clock the demuxer would move all timestamps but the first. Keeps the session alive meanwhile.

        Raises:
            SourceError: ``unavailable``: the connection broke; ``auth``: a later request was refused; ``timeout``: the
                server reads nothing; ``bad_data``.
        """
        self._ready, self._early = [*self._early, *self._ready], []
        keeper = asyncio.create_task(self._keep_alive(), name="keep rtsp alive")
        try:
            while True:
                records = bytearray()
                is_over = False
                for item in self._ready:
                    if isinstance(item, Packet):
                        if item.channel == self._state.channels[0] and len(item.record) > 2:
                            records += item.record
                        elif item.channel == self._state.channels[1]:
                            is_over = is_over or says_bye(item.record[2:])
                    elif item.status == 0:
                        if item.start.startswith(("TEARDOWN", "REDIRECT")):
                            return
                        await self._refuse(item)
                    else:
                        self._take_late_answer(item)
                if records:
                    yield bytes(records)
                if is_over or not await self._receive():
                    return
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def aclose(self) -> None:
        """Say farewell if there is a session, and drop the connection."""
        try:
            if self._state.session_id and self.description is not None and not self._writer.is_closing():
                with contextlib.suppress(OSError, TimeoutError):
                    self._send("TEARDOWN", self.description.play_uri, {})
                    async with asyncio.timeout(FAREWELL_S):
                        await self._writer.drain()
        finally:
            self._writer.transport.abort()

    async def _ask(
        self, method: str, uri: str, headers: dict[str, str] | None = None, *, must_succeed: bool = True
    ) -> Message:
        """Send a request and return its answer, logging in when asked to."""
        for attempt in range(3):
            answer = await self._exchange(method, uri, headers or {})
            if answer.status != 401 or not must_succeed:
                break
            is_stale = "stale=true" in " ".join(answer.headers.get("www-authenticate", [])).lower().replace('"', "")
            if self._login is None or (attempt > 0 and not is_stale):
                break
            if not self._login.take_challenge(answer.headers.get("www-authenticate", [])):
                break
        if 300 <= answer.status < 400:
            raise _Redirected(answer.header("location"))
        if must_succeed and answer.status >= 400:
            raise self._refusal(method, answer)
        return answer

    async def _exchange(self, method: str, uri: str, headers: dict[str, str]) -> Message:
        number = self._send(method, uri, headers)
        await self._drain()
        while True:
            fresh, self._ready = self._ready, []
            for place, item in enumerate(fresh):
                if isinstance(item, Packet):
                    self._keep(item)
                elif item.status == 0:
                    await self._refuse(item)
                elif item.header("cseq") in ("", str(number)):
                    self._ready = fresh[place + 1 :]
                    return item
            if not await self._receive():
                raise SourceError(SourceErrorCode.UNAVAILABLE, f"{self._target.shown} closed the connection")

    def _keep(self, packet: Packet) -> None:
        """Keep a packet that comes before it is asked for: with it the video begins."""
        self._early.append(packet)
        self._early_bytes += len(packet.record)
        if len(self._early) > MAX_EARLY_PACKETS or self._early_bytes > MAX_EARLY_BYTES:
            message = f"{self._target.shown} sends packets without end instead of an answer"
            raise SourceError(SourceErrorCode.BAD_DATA, message)

    async def _receive(self) -> bool:
        """Read what came into ``_ready``; returns whether the connection is still open."""
        try:
            data = await self._reader.read(READ_BYTES)
            self._ready = list(self._parser.feed(data))
        except BadMessage as error:
            raise SourceError(SourceErrorCode.BAD_DATA, f"{self._target.shown} does not speak RTSP: {error}") from None
        except OSError:
            raise SourceError(SourceErrorCode.UNAVAILABLE, f"the connection to {self._target.shown} broke") from None
        return bool(data)

    def _send(self, method: str, uri: str, headers: dict[str, str]) -> int:
        self._sequence += 1
        lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {self._sequence}", f"User-Agent: {USER_AGENT}"]
        if self._state.session_id:
            lines.append(f"Session: {self._state.session_id}")
        authorization = self._login.authorization(method, uri) if self._login else None
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return self._sequence

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError:
            raise SourceError(SourceErrorCode.UNAVAILABLE, f"the connection to {self._target.shown} broke") from None

    async def _keep_alive(self) -> None:
        while True:
            await self._clock.sleep(max(KEEP_ALIVE_LEAST_S, self._state.timeout_s / 2.0))
            self._send_sign_of_life()
            # A server that reads nothing is sent no more.
            await self._writer.drain()

    def _send_sign_of_life(self) -> None:
        method = "GET_PARAMETER" if "GET_PARAMETER" in self._state.methods else "OPTIONS"
        assert self.description is not None
        self._state.waiting = {self._send(method, self.description.play_uri, {}): method}

    def _take_late_answer(self, answer: Message) -> None:
        """Look at the answer to a sign of life; a log-in that grew stale is renewed once."""
        was_asked = self._state.waiting.pop(_number(answer.header("cseq")), None)
        if was_asked is None:
            return
        if answer.status == 401 and self._login is not None:
            if self._login.take_challenge(answer.headers.get("www-authenticate", [])):
                assert self.description is not None
                self._send(was_asked, self.description.play_uri, {})
        elif answer.status == 454:
            raise SourceError(SourceErrorCode.UNAVAILABLE, f"{self._target.shown} no longer knows the session")

    async def _refuse(self, request: Message) -> None:
        """Answer a request of the server, which must take the answer before its next request is looked at."""
        status = "200 OK" if request.start.startswith("OPTIONS") else "501 Not Implemented"
        number = "".join(character for character in request.header("cseq") if character.isdigit())[:16]
        self._writer.write(f"RTSP/1.0 {status}\r\nCSeq: {number}\r\n\r\n".encode())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._drain()
        except TimeoutError:
            message = f"{self._target.shown} sends requests and reads no answers"
            raise SourceError(SourceErrorCode.TIMEOUT, message) from None

    def _refusal(self, method: str, answer: Message) -> SourceError:
        where = self._target.shown
        code = _CODES.get(answer.status, SourceErrorCode.SERVER)
        if code is SourceErrorCode.AUTH:
            given = "the user and password given" if self._login else "a user and password are needed, none were given"
            return SourceError(code, f"{where} refuses access ({answer.status}): {given}")
        if answer.status == 461:
            return SourceError(SourceErrorCode.UNAVAILABLE, f"{where} does not offer video over TCP")
        return SourceError(code, f"{where} answers {method} with {answer.status}")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


async def open_session(
    target: ParsedTarget, dialer: Dialer, clock: Clock, *, verify_tls: bool, timeout_s: float
) -> RtspSession:
    """Return a session that plays; follows redirects, each checked and dialled like the first address.

    Args:
        target: Where; its user and password are given to its own host only.
        dialer: Opens connections.
        clock: Time.
        verify_tls: Whether ``rtsps`` certificates are checked.
        timeout_s: For everything until the first packet may come.

    Raises:
        SourceError: See ``RtspSession.play``, and ``dns``, ``refused``, ``timeout``, ``tls``, ``forbidden``.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                session = await _connect(target, dialer, clock, verify_tls=verify_tls)
                try:
                    await session.play()
                except _Redirected as moved:
                    await session.aclose()
                    target = _redirected(target, moved.location, dialer)
                except BaseException:
                    await session.aclose()
                    raise
                else:
                    return session
    except TimeoutError:
        raise SourceError(SourceErrorCode.TIMEOUT, f"{target.shown} did not begin to play in time") from None
    raise SourceError(SourceErrorCode.SERVER, f"{target.shown} redirects more than {MAX_REDIRECTS} times")


async def _connect(target: ParsedTarget, dialer: Dialer, clock: Clock, *, verify_tls: bool) -> RtspSession:
    tls = dialer.tls.get(verify_tls) if target.scheme == "rtsps" else None
    return RtspSession(target, await dialer.connect(target.host, target.port, tls=tls), clock)


def _redirected(target: ParsedTarget, location: str, dialer: Dialer) -> ParsedTarget:
    """Return where a redirect leads, if it may be opened."""
    try:
        url = location if "://" in location else urljoin(target.url, location)
        onward = dialer.policy.check_text(url, SCHEMES)
    except ForbiddenReference as error:
        text = f"{target.shown} redirects to an address that may not be opened: {error.message}"
        raise SourceError(SourceErrorCode.FORBIDDEN, text) from None
    except InvalidInput:
        raise SourceError(SourceErrorCode.SERVER, f"{target.shown} redirects to nowhere") from None
    if target.scheme == "rtsps" and onward.scheme == "rtsp":
        raise SourceError(SourceErrorCode.TLS, f"{target.shown} redirects from an encrypted connection to a plain one")
    if onward.username is None and onward.origin == target.origin:
        return ParsedTarget(
            onward.scheme, onward.host, onward.port, onward.path, target.username, target.password, onward.has_port
        )
    return onward
