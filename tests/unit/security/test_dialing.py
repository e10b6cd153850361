"""Resolving, checking, and dialling what was checked."""

import asyncio

import pytest

from freeroam.security.dialing import Dialer, DialTimeouts
from freeroam.security.url_policy import UrlPolicy
from freeroam.vocabulary.errors import SourceError


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
