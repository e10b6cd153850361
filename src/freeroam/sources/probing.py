"""A short look at a video: opened once, until its first frame comes or does not."""

from __future__ import annotations

from freeroam.clock import Clock, SystemClock
from freeroam.security.redaction import redact_text, redact_url
from freeroam.sources.opening import Opener
from freeroam.sources.reading import Reading
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.vocabulary.errors import ForbiddenReference, FreeroamError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.job import SourceOptions
from freeroam.vocabulary.probe import ProbeReport

PROBE_FPS = 1.0
PROBE_BOX_PX = 640
"""The box frames are scaled to; of several renditions the one that a model of this size would be given is opened."""


async def probe(
    opener: Opener,
    stream_ref: str,
    options: SourceOptions | None = None,
    *,
    limit_s: float = 30.0,
    clock: Clock | None = None,
) -> ProbeReport:
    """Open ``stream_ref`` once and say what it is; never raises for what is wrong with it.

    Args:
        opener: Builds the source; its decoders must be running.
        stream_ref: What the user gave.
        options: The user's source settings.
        limit_s: How long the first frame may take.
        clock: Time.
    """
    clock = clock or SystemClock()
    report = ProbeReport(stream_ref=redact_url(stream_ref))
    options = options or SourceOptions()
    try:
        report = report.model_copy(update={"kind": opener.classify(stream_ref, options).kind})
        wish = FrameWish(PROBE_FPS, options.width_px or PROBE_BOX_PX, options.height_px or PROBE_BOX_PX)
        source = opener.open(SourceRequest(stream_ref, wish, options))
    except FreeroamError as error:
        return _failed(report, error)
    reading = Reading(source, clock)
    began_s = clock.monotonic_s()
    try:
        frame = await reading.next((limit_s, SourceErrorCode.TIMEOUT))
        first_frame_ms = round((clock.monotonic_s() - began_s) * 1000.0, 1)
    except FreeroamError as error:
        return _failed(_described(report, source.facts, None), error)
    finally:
        await reading.aclose()
    report = _described(report, source.facts, frame)
    if frame is None:
        return report.model_copy(
            update={"error_code": SourceErrorCode.NO_VIDEO.value, "error": "it ended before there was a picture"}
        )
    return report.model_copy(update={"first_frame_ms": first_frame_ms})


def _described(report: ProbeReport, facts: SourceFacts, frame: Frame | None) -> ProbeReport:
    size = [facts.height_px, facts.width_px] if facts.height_px and facts.width_px else None
    if frame is not None:
        size = [frame.source_height_px, frame.source_width_px]
    return report.model_copy(
        update={
            "kind": facts.kind,
            "is_live": facts.is_live if frame is not None else None,
            "codec": facts.codec,
            "size": size,
            "fps": facts.fps,
            "variant": facts.variant,
            "variants": list(facts.variants),
        }
    )


def _failed(report: ProbeReport, error: FreeroamError) -> ProbeReport:
    code = SourceErrorCode.FORBIDDEN.value if isinstance(error, ForbiddenReference) else error.code
    return report.model_copy(update={"error_code": code, "error": redact_text(error.message)})
