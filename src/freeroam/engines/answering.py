"""From what replicas tell to those who asked: pieces, answers, errors, and second chances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from freeroam.batching.ticket import Ticket
from freeroam.engines.outputs import error_of, output_of
from freeroam.engines.replica_process import Loss, ReplicaProcess
from freeroam.engines.statistics import Statistics
from freeroam.observability.logs import get_logger
from freeroam.processes.wire import Message
from freeroam.vocabulary.errors import FreeroamError, ModelError

Rehome = Callable[[list[Ticket]], list[Ticket]]
"""Takes requests that another version may answer; returns those that none can."""

log = get_logger(__name__)


def hand_out(replica: ReplicaProcess, message: Message, statistics: Statistics) -> None:
    """Give what one step of a replica brought to those who asked for it.

    Args:
        replica: Whose step.
        message: ``step``, as ``engines.replica`` sends it.
        statistics: Counts the answers.
    """
    started_s, pieces, calls = message["started_s"], message["pieces"], replica.calls
    for number in message["begun"]:
        if (call := calls.get(number)) is not None:
            call.started_s = started_s
    for index in range(0, len(pieces), 3):
        call = calls.get(pieces[index])
        if call is None:
            continue  # it was taken back and another replica answers it
        ticket = call.tickets[pieces[index + 1]]
        if ticket is not None:
            ticket.speak(pieces[index + 2])
    for number, place, answer, error in message["answers"]:
        call = calls.get(number)
        if call is None:
            continue
        if call.started_s is None:
            call.started_s = started_s
        ticket = call.take(place)
        if ticket is None or ticket.is_over:
            continue
        if error is not None:
            ticket.fail(error_of(error))
            statistics.count_outcome("failed")
        elif answer is not None:
            _resolve(ticket, answer, call.started_s, replica, message, statistics)


def second_chances(loss: Loss, statistics: Statistics) -> list[Ticket]:
    """Return the suspects that are asked again, each in a batch of its own; fail the others."""
    again = []
    for ticket in loss.suspects:
        if ticket.is_over:
            continue
        ticket.losses += 1
        if ticket.may_be_asked_again:
            ticket.tokens.clear()
            again.append(ticket)
        else:
            code = "inference_timeout" if loss.reason == "hung" else "replica_lost"
            times = "twice" if ticket.losses > 1 else "after part of its answer had been given out"
            ticket.fail(ModelError(f"the model's process was lost {times}: {loss.message}", code=code))
            statistics.count_outcome("failed")
    statistics.count_asked_again(len(again))
    return again


def give_up(replicas: Iterable[ReplicaProcess], rehome: Rehome | None, error: Callable[[], FreeroamError]) -> None:
    """Take from replicas what they are answering, because they are ended.

    Args:
        replicas: What they say from now on is heard by nobody.
        rehome: Where requests of which nobody has heard anything, and that name no version, are asked again.
        error: What the others fail with.
    """
    tickets = [
        ticket
        for replica in replicas
        for group in replica.book.clear(begun=0)
        for ticket in group
        if not ticket.is_over
    ]
    if rehome is not None:
        again = [ticket for ticket in tickets if ticket.given == 0 and not ticket.is_pinned]
        for ticket in again:
            ticket.tokens.clear()
        refused = rehome(again)
        tickets = [ticket for ticket in tickets if ticket not in again or ticket in refused]
    for ticket in tickets:
        ticket.fail(error())


def _resolve(
    ticket: Ticket, answer: dict[str, Any], begun_s: float, replica: ReplicaProcess, message: Message,
    statistics: Statistics,
) -> None:  # fmt: skip
    ended_s = message["started_s"] + message["model_ms"] / 1000.0
    try:
        output = output_of(answer, ticket, replica, (begun_s, ended_s), message["batch"])
    except Exception as error:  # whatever a model may have put into its answer costs this question only
        log.exception("answer_unusable", replica=replica.name)
        ticket.fail(ModelError(f"the model's answer cannot be used: {error}"))
        statistics.count_outcome("failed")
        return
    ticket.resolve(output)
    statistics.add_answer(output.wait_ms, output.wait_ms + output.model_ms, ticket.request.priority)
