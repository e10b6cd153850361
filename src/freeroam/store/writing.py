"""The one task that writes: what arrives while a commit runs shares the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.store.failures import is_of_database, may_pass, words_of
from freeroam.store.transactions import Operation, Transactions
from freeroam.vocabulary.errors import FreeroamError, StoreError

log = get_logger(__name__)

T = TypeVar("T")

GROUP = 256
"""Operations in one commit at most, so that the first of them never waits long for the last."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0


@dataclass(slots=True)
class _Wanted(Generic[T]):
    operation: Operation[T]
    done: asyncio.Future[T]


class WritingTask:
    """Owns the writing connection: nobody else's cancellation reaches it.

    An idle database commits at once. Under load, whatever arrived during one commit goes into the next, so a
    result waits for at most one other commit. When the database fails, everything waits and is tried again.

    Args:
        transactions: The open database.
        clock: For the pauses between attempts.

    Attributes:
        last_error: Why the database does not take writes now; None while it does.
    """

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock
        self._waiting: deque[_Wanted[Any]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.last_error: str | None = None
        self.commits = 0

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run(), name="store-writer")

    @property
    def waiting(self) -> int:
        """How many operations wait to be committed."""
        return len(self._waiting)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue ``operation``; the future is done after its commit, in the order of submission.

        Cancelling the future before its turn takes the operation out.

        Raises:
            StoreError: The store is closed.
        """
        if self._closing or self._task is None:
            raise StoreError("the store is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Wanted(operation, done))
        self._wake.set()
        return done

    async def close(self, timeout_s: float) -> None:
        """Commit what waits, for at most ``timeout_s`` seconds, and end."""
        self._closing = True
        self._wake.set()
        if self._task is None:
            return
        _, late = await asyncio.wait({self._task}, timeout=timeout_s)
        if late:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
                    await self._commit([wanted for wanted in group if not wanted.done.done()])
                if self._closing:
                    return
        finally:
            # Also when the event loop ends and cancels every task: whoever waits must not wait for its time limit.
            self._closing = True
            for wanted in self._waiting:
                _fail(wanted, StoreError("the store was closed before this was written"))
            self._waiting.clear()
            await self._transactions.drop()

    async def _commit(self, group: list[_Wanted[Any]]) -> None:
        """Commit the group in one transaction; if one of it fails, each gets a transaction of its own."""
        if not group:
            return
        if len(group) > 1:
            try:
                answers = await self._transact([wanted.operation for wanted in group])
            except Exception as error:  # each is tried by itself, and then fails by itself
                log.debug("group_commit_split", operations=len(group), reason=type(error).__name__)
                if not isinstance(error, FreeroamError):
                    await self._transactions.drop()
            else:
                for wanted, answer in zip(group, answers, strict=True):
                    _answer(wanted, answer)
                return
        for wanted in group:
            await self._commit_one(wanted)

    async def _commit_one(self, wanted: _Wanted[Any]) -> None:
        pause_s = FIRST_PAUSE_S
        while not wanted.done.done():
            try:
                (answer,) = await self._transact([wanted.operation])
            except FreeroamError as error:
                return _fail(wanted, error)
            except Exception as error:  # one operation's failure must not end the writer
                await self._transactions.drop()
                if not may_pass(error):
                    return _fail(wanted, _refusal(error))
                if self.last_error is None:
                    log.warning("store_write_failed", error=words_of(error))
                self.last_error = words_of(error)
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                return _answer(wanted, answer)
        return None

    async def _transact(self, operations: list[Operation[Any]]) -> list[Any]:
        answers = await self._transactions.write(operations)
        self.commits += 1
        if self.last_error is not None:
            log.info("store_write_recovered")
            self.last_error = None
        return answers


def _answer(wanted: _Wanted[Any], answer: Any) -> None:
    if not wanted.done.done():
        wanted.done.set_result(answer)


def _fail(wanted: _Wanted[Any], error: BaseException) -> None:
    if not wanted.done.done():
        wanted.done.set_exception(error)


def _refusal(error: Exception) -> Exception:
    return StoreError(f"the database refused a write: {words_of(error)}") if is_of_database(error) else error
