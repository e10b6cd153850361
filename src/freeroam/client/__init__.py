"""The typed client of the HTTP interface: ``Client`` for ordinary programs, ``AsyncClient`` for those with a loop."""

from freeroam.client.awaiting import AsyncClient, AsyncStream
from freeroam.client.blocking import Client, Stream
from freeroam.client.steps import Retries

__all__ = ["AsyncClient", "AsyncStream", "Client", "Retries", "Stream"]
