"""A source that follows a script, for tests of what is built round sources."""

from __future__ import annotations

from dataclasses import dataclass, field

from freeroam.clock import Clock
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.vocabulary.errors import FreeroamError, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish


def frame(time_s: float, frame_id: str | None = None) -> Frame:
    """A 2x1 picture at ``time_s`` of stream time."""
    name = frame_id or str(round(time_s * 1000))
    return Frame(b"\0" * 6, 2, 1, name, time_s, time_s, 0.0, 0.0, 2, 1)


def broken(code: SourceErrorCode = SourceErrorCode.REFUSED) -> SourceError:
    return SourceError(code, f"it broke: {code.value}")


class Pause:
    """Silence of ``duration_s``; for ever unless said."""

    def __init__(self, duration_s: float = 1e9) -> None:
        self.duration_s = duration_s


Step = Frame | Pause | Exception


@dataclass
class Script:
    """Opens sources that play ``runs`` one after the other; the last one is played again and again.

    Attributes:
        requests: What each opening was asked.
        wishes: Rates asked of open sources.
        places: What each opening leaves for the next as its place; none unless given.
        closed: Openings whose iterator has ended, whatever the way.
    """

    clock: Clock
    runs: list[list[Step]]
    is_live: bool = True
    may_be_quiet: bool = False
    plans_ahead: bool = False
    kind: str = "scripted"
    places: list[object] = field(default_factory=list)
    requests: list[SourceRequest] = field(default_factory=list)
    wishes: list[FrameWish] = field(default_factory=list)
    handed_out: int = 0
    closed: int = 0

    def open(self, request: SourceRequest) -> ScriptedSource:
        run = self.runs[min(len(self.requests), len(self.runs) - 1)]
        self.requests.append(request)
        return ScriptedSource(self, run)

    @property
    def is_open(self) -> bool:
        return self.closed < len(self.requests)


class ScriptedSource:
    def __init__(self, script: Script, run: list[Step]) -> None:
        self.facts = SourceFacts(script.kind, script.is_live, script.may_be_quiet, "h264", 1280, 720, 25.0)
        self.facts.place = script.places[len(script.requests) - 1] if script.places else None
        self._script = script
        self._run = run

    async def frames(self):
        try:
            await self._script.clock.sleep(0)
            self.facts.plans_ahead = self._script.plans_ahead
            for step in self._run:
                match step:
                    case Pause():
                        await self._script.clock.sleep(step.duration_s)
                    case FreeroamError():
                        raise type(step)(step.source_code, step.message) if isinstance(step, SourceError) else step
                    case Exception():
                        raise step
                    case _:
                        self._script.handed_out += 1
                        yield step
        finally:
            self._script.closed += 1

    def change_wish(self, wish: FrameWish) -> None:
        self._script.wishes.append(wish)
