"""A run: keeps a number of questions in flight, or sends them when they are due, and counts what comes of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from freeroam.clock import Clock
from freeroam.load.connection import Connection, Exchange
from freeroam.load.doors import open_door
from freeroam.load.plan import Plan, Wording, drawn_priorities, due_times_s
from freeroam.load.tally import Books, Tally, Times
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import Priority

SWEEP_S = 0.1
"""How often questions are looked through for those that take too long."""

MAX_KEPT_BYTES = 64 * 2**20
"""Requests are kept as bytes, up to this much, instead of being made anew."""

SHORTEST_REST_S, LONGEST_REST_S = 0.05, 1.0
"""How long one of a closed loop rests after a refusal, doubling: it would else ask a full server without a pause."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where questions go.

    Attributes:
        tls: None where it is plain HTTP.
        head: Of every request, up to the length of its body.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    head: bytes


def target_of(plan: Plan, key: str | None, *, verify: bool = True) -> Target:
    """Return where the questions of ``plan`` go.

    Raises:
        InvalidInput: The address is no http(s) address.
    """
    parts = urlsplit(plan.url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port:
        raise InvalidInput(f"--url: {plan.url!r} is no address of a server; give one like http://127.0.0.1:8000")
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        if not verify:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    accepts = "text/event-stream" if plan.is_streamed else "application/json"
    lines = [
        f"POST {parts.path.rstrip('/')}{open_door(plan).path} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "User-Agent: freeroam-bench",
        f"Accept: {accepts}",
        "Content-Type: application/json",
    ]
    if key:
        if not key.isascii() or not key.isprintable():
            raise InvalidInput("--key: a key is made of visible ASCII characters")
        lines.append(f"Authorization: Bearer {key}")
    return Target(parts.hostname, port, tls, "\r\n".join(lines).encode() + b"\r\n")


class Run:
    """One run of a plan.

    Attributes:
        books: What was counted, from the end of the warm-up on.
        in_flight: Questions sent and not over.
        began_s: When measuring began, and
        ended_s: when sending ended; on the clock.
        cpu_s: CPU seconds of this process while measuring.
        at_end: Questions, answers and tokens up to ``ended_s``, of which rates are made; None before.
        connections_made: How many connections were opened.

    Args:
        plan: What is asked.
        target: Of whom.
        clock: Tells time.
    """

    def __init__(self, plan: Plan, target: Target, clock: Clock) -> None:
        self.plan = plan
        self.books = Books()
        self.in_flight: dict[Exchange, Connection] = {}
        self.began_s = self.ended_s = 0.0
        self.cpu_s = 0.0
        self.at_end: Tally | None = None
        self.connections_made = 0
        self._target = target
        self._clock = clock
        self._door = open_door(plan)
        self._idle: list[Connection] = []
        self._bodies: dict[tuple[Wording, Priority | None], bytes] = {}
        self._wordings = itertools.cycle(plan.wordings)
        self._priorities = drawn_priorities(plan.priorities, plan.seed)
        self._is_measuring = False
        self._is_over = self._is_interrupted = False
        self._kept_bytes = 0
        self._left = itertools.count() if plan.requests is None else iter(range(plan.requests))

    async def carry_out(self) -> None:
        """Send, until the plan says to stop; then wait for what is in flight."""
        start_s = self._clock.monotonic_s()
        sweeping = asyncio.create_task(self._sweep())
        measuring = asyncio.create_task(self._measure_after(self.plan.warmup_s))
        if not self.plan.warmup_s:
            self._begin()
        end_s = None if self.plan.duration_s is None else start_s + self.plan.warmup_s + self.plan.duration_s
        try:
            if self.plan.rate_per_s is None:
                await self._closed_loop(end_s)
            else:
                await self._open_loop(start_s, end_s, self.plan.rate_per_s)
        finally:
            for task in (sweeping, measuring):
                task.cancel()
            await asyncio.gather(sweeping, measuring, return_exceptions=True)
            for connection in [*self._idle, *self.in_flight.values()]:
                connection.close()

    async def _measure_after(self, warmup_s: float) -> None:
        await self._clock.sleep(warmup_s)
        self._begin()

    def _begin(self) -> None:
        """Forget what was counted while warming up."""
        if self._is_measuring:
            return
        self.books.begin()
        self._is_measuring = True
        self.began_s = self._clock.monotonic_s()
        self.cpu_s = _cpu_s()

    def _end(self) -> None:
        """Take note of what was counted up to the end of sending."""
        if self.at_end is not None:
            return
        self._begin()
        self.ended_s = self._clock.monotonic_s()
        self.cpu_s = _cpu_s() - self.cpu_s
        total, window = self.books.total, self.books.window
        self.at_end = Tally(
            due=total.due + window.due,
            sent=total.sent + window.sent,
            answered=total.answered + window.answered,
            tokens=total.tokens + window.tokens,
            pieces=total.pieces + window.pieces,
        )

    # The two loops

    async def _closed_loop(self, end_s: float | None) -> None:
        workers = [asyncio.create_task(self._work(end_s)) for _ in range(self.plan.concurrency)]
        try:
            if end_s is not None:
                await asyncio.wait(workers, timeout=max(0.0, end_s - self._clock.monotonic_s()))
                self._end()
                await asyncio.wait(workers, timeout=self.plan.drain_s)
            else:
                await asyncio.wait(workers)
                self._end()
        finally:
            await self._finish(workers)

    async def _work(self, end_s: float | None) -> None:
        """Ask one question after another."""
        rest_s = SHORTEST_REST_S
        for _ in self._left:
            now_s = self._clock.monotonic_s()
            if self._is_over or (end_s is not None and now_s >= end_s):
                return
            if await self._ask(now_s):
                rest_s = SHORTEST_REST_S
                continue
            if end_s is not None:
                rest_s = min(rest_s, max(0.0, end_s - self._clock.monotonic_s()))
            await self._clock.sleep(rest_s)
            rest_s = min(LONGEST_REST_S, max(rest_s, SHORTEST_REST_S) * 2)

    async def _open_loop(self, start_s: float, end_s: float | None, rate_per_s: float) -> None:
        asked: set[asyncio.Task[bool]] = set()
        room = asyncio.Semaphore(self.plan.concurrency)

        async def ask(due_s: float) -> bool:
            async with room:
                if self._is_interrupted:
                    return False
                if self._is_over:
                    self.books.window.errors["never sent"] += 1
                    return False
                return await self._ask(due_s)

        try:
            for due_s, _ in zip(due_times_s(rate_per_s, self.plan.pace, self.plan.seed), self._left, strict=False):
                if end_s is not None and start_s + due_s >= end_s:
                    break
                await self._clock.sleep(start_s + due_s - self._clock.monotonic_s())
                self.books.window.due += 1
                task = asyncio.create_task(ask(start_s + due_s))
                asked.add(task)
                task.add_done_callback(asked.discard)
            if end_s is not None:
                await self._clock.sleep(end_s - self._clock.monotonic_s())
            self._end()
            if asked:
                await asyncio.wait(asked, timeout=self.plan.drain_s)
        finally:
            await self._finish(asked)

    # One question

    async def _ask(self, due_s: float) -> bool:
        """Ask one question and count what comes of it; return whether it was answered."""
        priority = next(self._priorities)
        request = self._request(next(self._wordings), priority)
        self.books.window.sent += 1
        for attempt in (1, 2):
            exchange = Exchange(due_s, self._door.hearing(self.books), priority, self._is_measuring, asyncio.Future())
            try:
                connection, is_fresh = await self._connection()
            except OSError as error:
                exchange.error = f"no connection: {type(error).__name__}"
                return self._count(exchange)
            self.in_flight[exchange] = connection
            try:
                connection.ask(request, exchange)
                await exchange.over
            finally:
                del self.in_flight[exchange]
                if connection.is_usable and exchange.over.done():
                    self._idle.append(connection)
                else:
                    connection.close()
            # A server may close an idle connection just when it is used again; nothing was asked then.
            is_stale = exchange.error == "connection lost" and not exchange.is_begun and not is_fresh
            if not is_stale or attempt == 2:
                break
        return self._count(exchange)

    async def _connection(self) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection, False
        target, loop = self._target, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._clock), target.host, target.port, ssl=target.tls
                )
        except TimeoutError:
            raise OSError("no answer to the connection") from None
        self.connections_made += 1
        return connection, True

    def _request(self, wording: Wording, priority: Priority | None) -> bytes:
        made = self._bodies.get((wording, priority))
        if made is None:
            body = self._door.body(wording, priority)
            level = f"X-Priority: {priority.name}\r\n".encode() if priority is not None else b""
            made = b"%b%bContent-Length: %d\r\n\r\n%b" % (self._target.head, level, len(body), body)
            if self._kept_bytes + len(made) <= MAX_KEPT_BYTES:
                self._bodies[wording, priority] = made
                self._kept_bytes += len(made)
        return made

    def _count(self, exchange: Exchange) -> bool:
        if self._is_interrupted:
            return False
        tally, hearing = self.books.window, exchange.hearing
        if exchange.error is not None:
            tally.errors[exchange.error] += 1
            return False
        tally.answered += 1
        if exchange.is_measured:
            _note_times(tally.times, exchange)
            if exchange.priority is not None:
                _note_times(tally.by_priority.setdefault(exchange.priority, Times()), exchange)
            if hearing.tokens > 1 and hearing.first_s:
                tally.times.time_per_token.add((hearing.last_s - hearing.first_s) * 1000.0 / (hearing.tokens - 1))
        return True

    async def _sweep(self) -> None:
        """Cut questions that take too long."""
        while True:
            await self._clock.sleep(SWEEP_S)
            latest_s = self._clock.monotonic_s() - self.plan.timeout_s
            for exchange, connection in list(self.in_flight.items()):
                if exchange.sent_s < latest_s:
                    connection.cut("timeout")

    async def _finish(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Cut what is still in flight, let it be counted unless the run was interrupted, and end the tasks."""
        self._end()
        self._is_over = True
        this = asyncio.current_task()
        self._is_interrupted = this is not None and this.cancelling() > 0
        for connection in list(self.in_flight.values()):
            connection.cut("unanswered at the end")
        waiting = list(tasks)
        if waiting:
            await asyncio.wait(waiting, timeout=1.0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _note_times(times: Times, exchange: Exchange) -> None:
    hearing, due_s = exchange.hearing, exchange.due_s
    times.end_to_end.add((exchange.ended_s - due_s) * 1000.0)
    times.behind.add((exchange.sent_s - due_s) * 1000.0)
    if hearing.first_s:
        times.first_token.add((hearing.first_s - due_s) * 1000.0)


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system
