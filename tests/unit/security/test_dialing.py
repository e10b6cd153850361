"""Resolving, checking, and dialling what was checked."""

import asyncio
import contextlib
import socket
import threading
from types import SimpleNamespace

import pytest

from freeroam.security.dialing import RESOLVER_THREADS, Dialer, DialTimeouts, SystemResolver
from freeroam.security.url_policy import UrlPolicy
from freeroam.vocabulary.errors import SourceError
from tests.waiting import until


class ScriptedResolver:
    """Gives one answer after the other, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer


async def test_every_answer_of_a_name_is_checked_and_one_forbidden_refuses_it():
    dialer = Dialer(UrlPolicy(), ScriptedResolver(["93.184.216.34", "127.0.0.1"]))

    with pytest.raises(SourceError) as caught:
        await dialer.resolve("mixed.example.org", 80)

    assert caught.value.code == "forbidden"


async def test_public_answers_come_back_in_their_order():
    dialer = Dialer(UrlPolicy(), ScriptedResolver(["2606:4700::1111", "1.1.1.1"]))

    assert await dialer.resolve("example.org", 443) == ["2606:4700::1111", "1.1.1.1"]


async def test_a_literal_address_is_not_asked_about():
    resolver = ScriptedResolver([])

    assert await Dialer(UrlPolicy(), resolver).resolve("1.1.1.1", 443) == ["1.1.1.1"]
    assert resolver.asked == 0


@pytest.mark.parametrize("answer", [[], OSError(-2, "Name or service not known"), UnicodeError("label too long"), None])
async def test_a_name_without_an_answer_is_a_dns_error(answer):
    dialer = Dialer(UrlPolicy(), ScriptedResolver(answer), DialTimeouts(resolve_s=0.01))

    with pytest.raises(SourceError) as caught:
        await dialer.resolve("nobody.example.org", 80)

    assert caught.value.code == "dns"


async def test_an_answer_that_is_no_address_is_refused():
    with pytest.raises(SourceError) as caught:
        await Dialer(UrlPolicy(), ScriptedResolver(["not an address"])).resolve("odd.example.org", 80)

    assert caught.value.code == "forbidden"


async def test_names_are_resolved_beside_the_loop_and_hold_up_no_exit(monkeypatch):
    may_answer, threads = threading.Event(), []

    def ask(host, *_, **__):
        threads.append(threading.current_thread())
        may_answer.wait()
        if host == "nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(0, 0, 0, "", ("93.184.216.34", 0)), (0, 0, 0, "", ("93.184.216.34", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    resolver = SystemResolver()
    given_up = asyncio.create_task(resolver.resolve("example.org"))
    answered = asyncio.create_task(resolver.resolve("example.org"))
    refused = asyncio.create_task(resolver.resolve("nowhere.example"))
    await until(lambda: len(threads) == 3)
    given_up.cancel()

    assert all(thread.daemon for thread in threads)
    may_answer.set()
    assert await answered == ["93.184.216.34"]
    with pytest.raises(socket.gaierror):
        await refused
    with pytest.raises(asyncio.CancelledError):
        await given_up


async def test_more_names_than_threads_wait_for_their_turn(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: [(0, 0, 0, "", (host, 0))])
    resolver = SystemResolver()
    names = [f"host{number}" for number in range(3 * RESOLVER_THREADS)]

    assert await asyncio.gather(*map(resolver.resolve, names)) == [[name] for name in names]


class SlowToGiveUp:
    """Attempts to connect: ``first`` never answers and goes on for a while although cancelled, others succeed."""

    def __init__(self, monkeypatch, first):
        self.first = first
        self.may_end = asyncio.Event()
        self.begun = []
        self.aborted = []
        monkeypatch.setattr("freeroam.security.dialing.STAGGER_S", 0.0)
        monkeypatch.setattr(asyncio, "open_connection", self.connect)

    async def connect(self, address, *_, **__):
        self.begun.append(address)
        if address == self.first:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await self.may_end.wait()
        transport = SimpleNamespace(abort=lambda: self.aborted.append(address))
        return address, SimpleNamespace(transport=transport)


async def test_the_first_to_answer_wins_without_waiting_for_those_that_lose(monkeypatch):
    # Given two addresses, of which the first neither answers nor gives up at once
    attempts = SlowToGiveUp(monkeypatch, "1.1.1.1")
    dialer = Dialer(UrlPolicy(), ScriptedResolver(["1.1.1.1", "1.0.0.1"]))

    # When the second answers
    dial = asyncio.create_task(dialer.connect("example.org", 80))
    await until(dial.done)

    # Then it is had at once, and the first is dropped should it connect all the same
    assert (await dial)[0] == "1.0.0.1"
    attempts.may_end.set()
    await until(lambda: attempts.aborted == ["1.1.1.1"])


async def test_a_caller_that_is_cancelled_ends_at_once_and_leaves_no_connection(monkeypatch):
    # Given one address that neither answers nor gives up at once
    attempts = SlowToGiveUp(monkeypatch, "1.1.1.1")
    dial = asyncio.create_task(Dialer(UrlPolicy(), ScriptedResolver(["1.1.1.1"])).connect("example.org", 80))
    await until(lambda: attempts.begun == ["1.1.1.1"])

    # When the caller is cancelled
    dial.cancel()

    # Then it ends, and so does a connection that comes later
    await until(dial.done)
    assert dial.cancelled()
    attempts.may_end.set()
    await until(lambda: attempts.aborted == ["1.1.1.1"])
