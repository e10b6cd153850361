"""What a replica has been asked and has not answered yet."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from freeroam.batching.ticket import Ticket
from freeroam.vocabulary.inference import Priority


class Call:
    """One batch at a replica.

    Args:
        number: Its name on the wire.
        tickets: The requests by their place in the batch.
        book: Where it is kept.

    Attributes:
        tickets: None once answered.
        open: How many are not answered yet.
        started_s: When the model began it, on the machine's monotonic clock; None until it was heard of.
    """

    __slots__ = ("_book", "number", "open", "started_s", "tickets")

    def __init__(self, number: int, tickets: list[Ticket], book: CallBook) -> None:
        self.number = number
        self.tickets: list[Ticket | None] = list(tickets)
        self.open = len(tickets)
        self.started_s: float | None = None
        self._book = book

    @property
    def open_tickets(self) -> list[Ticket]:
        """Requests not answered yet."""
        return [ticket for ticket in self.tickets if ticket is not None]

    def leave(self, ticket: Ticket) -> None:
        """Tell the replica that nobody waits for one of them; its slot is free for the next call on the wire."""
        ticket.seat = None
        self._book.wanted -= 1
        self._book.tell_cancelled(self.number, [self.tickets.index(ticket)])

    def take(self, place: int) -> Ticket | None:
        """Return the request at a place, which is answered now; None if it was answered before."""
        ticket, self.tickets[place] = self.tickets[place], None
        if ticket is None:
            return None
        self.open -= 1
        if ticket.seat is self:
            ticket.seat = None
            self._book.wanted -= 1
        if not self.open:
            del self._book.calls[self.number]
        return ticket


class CallBook:
    """The calls of one replica, oldest first.

    Args:
        tell: Sends a message to the replica.

    Attributes:
        calls: By number.
        wanted: Requests in them that are neither answered nor given up.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self.calls: OrderedDict[int, Call] = OrderedDict()
        self.wanted = 0
        self._last = 0
        self._tell = tell

    def wanted_by(self) -> Counter[Priority]:
        """Return how many requests of each priority are neither answered nor given up."""
        seated = (ticket for call in self.calls.values() for ticket in call.open_tickets if ticket.seat is call)
        return Counter(ticket.request.priority for ticket in seated)

    def open(self, tickets: list[Ticket]) -> Call:
        """Return a new call; it is not kept before ``keep``."""
        self._last += 1
        return Call(self._last, tickets, self)

    def keep(self, call: Call) -> None:
        """Keep a call that was sent."""
        self.calls[call.number] = call
        self.wanted += call.open
        for ticket in call.open_tickets:
            ticket.seat = call

    def take_back(self) -> list[Ticket]:
        """Take back the last call if it has not begun; its requests may go elsewhere.

        Should the replica begin it before it reads this, its answer finds nobody: work lost, nothing doubled.
        """
        if len(self.calls) < 2:
            return []
        number, call = next(reversed(self.calls.items()))
        if call.started_s is not None:
            # A model that speaks begins a call as it comes; what was said must not be said again elsewhere.
            return []
        del self.calls[number]
        self.tell_cancelled(number, None)
        return self._freed(call)

    def clear(self, begun: int) -> tuple[list[Ticket], list[Ticket]]:
        """Give up all calls; return the requests of the first ``begun`` of them, and those of the rest."""
        calls = list(self.calls.values())
        self.calls.clear()
        return (
            [ticket for call in calls[:begun] for ticket in self._freed(call)],
            [ticket for call in calls[begun:] for ticket in self._freed(call)],
        )

    def tell_cancelled(self, number: int, places: list[int] | None) -> None:
        """Tell the replica that nobody waits for some requests of a call, or for none of it."""
        self._tell({"kind": "cancel", "call": number, "questions": places})

    def _freed(self, call: Call) -> list[Ticket]:
        tickets = call.open_tickets
        for ticket in tickets:
            if ticket.seat is call:
                ticket.seat = None
                self.wanted -= 1
        return tickets
