"""Everything that HTTP sources need, with real decoders, for tests on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from freeroam.clock import SystemClock
from freeroam.security.dialing import Dialer, Resolver, TlsContexts
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.fetching import Fetcher, FetchTimeouts
from freeroam.sources.hls import HlsConfig, hls_factory
from freeroam.sources.http import http_factory
from freeroam.sources.limits import SourceLimits
from freeroam.sources.source import Source, SourceRequest
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.job import SourceOptions
from tests.origins import HOST

TLS = TlsContexts()
"""Made once, since making one costs more than a test."""


@dataclass
class Workshop:
    """Builds sources."""

    fetcher: Fetcher
    pool: DecoderPool
    clock: SystemClock
    config: HlsConfig

    def hls(self, url: str, **request: Any) -> Source:
        """An HLS source; ``fps``, ``width_px``, ``height_px``, ``options`` and fields of ``SourceRequest``."""
        return hls_factory(self.fetcher, self.pool, self.clock, self.config)(wanted(url, **request))

    def http(self, url: str, **request: Any) -> Source:
        """A source of plain HTTP."""
        return http_factory(self.fetcher, self.pool, self.clock, self.config)(wanted(url, **request))


def wanted(
    url: str,
    fps: float = 2.0,
    width_px: int | None = 80,
    height_px: int | None = 45,
    options: dict[str, Any] | None = None,
    **request: Any,
) -> SourceRequest:
    """A request with small pictures."""
    wish = FrameWish(fps, width_px, height_px)
    return SourceRequest(url, wish, SourceOptions(**(options or {})), **request)


@asynccontextmanager
async def workshop(
    allow: tuple[str, ...] = (HOST,),
    resolver: Resolver | None = None,
    *,
    decodes: bool = True,
    cafile: str | None = None,
    timeouts: FetchTimeouts | None = None,
    config: HlsConfig | None = None,
    clock: SystemClock | None = None,
    limits: SourceLimits | None = None,
) -> AsyncIterator[Workshop]:
    """Give a workshop; ``decodes=False`` starts no decoder, for tests where nothing gets that far."""
    clock = clock or SystemClock()
    pool = DecoderPool(DecoderConfig(processes=1), clock)
    dialer = Dialer(UrlPolicy(allow), resolver, tls=TlsContexts(cafile) if cafile else TLS, clock=clock)
    fetcher = Fetcher(dialer, clock, timeouts, limits)
    if decodes:
        await pool.start()
    try:
        yield Workshop(fetcher, pool, clock, config or HlsConfig())
    finally:
        await fetcher.aclose()
        await pool.stop()


async def take(source: Source, count: int | None = None) -> list[Frame]:
    """All frames of a source, or the first ``count``."""
    frames: list[Frame] = []
    async with aclosing(source.frames()) as given:  # type: ignore[type-var]
        async for frame in given:
            frames.append(frame)
            if count is not None and len(frames) >= count:
                break
    return frames
