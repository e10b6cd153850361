"""The gRPC server: takes its port before anything else starts, opens when all runs, closes after the last answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from freeroam.api.doorkeeper import Doorkeeper
from freeroam.api.grpc import inference_pb2
from freeroam.api.grpc.health import HEALTH_SERVICE, Health
from freeroam.api.grpc.methods import Methods, Unoffered
from freeroam.api.grpc.outlets import Outlets
from freeroam.api.grpc.passage import SERVICE
from freeroam.api.grpc.reflecting import Reflection
from freeroam.api.parts import Parts
from freeroam.observability.logs import get_logger
from freeroam.vocabulary.errors import ConfigurationError

MAX_METADATA_BYTES = 16 * 1024
IDLE_CONNECTION_S = 300
"""A connection without a call is closed after this; clients open another when they need one."""

PING_EVERY_S, PING_PATIENCE_S = 60, 20
"""A peer that is gone without a word is noticed after these, and its calls end."""

LAST_GRACE_S = 1.0
"""What calls that are still open at the very end have to end by themselves."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Where the door is.

    Attributes:
        host: Address to listen on.
        port: Never 0.
        is_wanted: Whether the port was chosen by the operator; the default one may be taken, then there is no door.
        certfile: Certificate chain (PEM) for TLS.
        keyfile: Its private key.
    """

    host: str
    port: int
    is_wanted: bool = True
    certfile: Path | None = None
    keyfile: Path | None = None


class GrpcDoor:
    """One gRPC server on the event loop that it is made on.

    Args:
        config: Where.
        doorkeeper: Shared with the HTTP door.
    """

    def __init__(self, config: DoorConfig, doorkeeper: Doorkeeper) -> None:
        self._config = config
        self._doorkeeper = doorkeeper
        self._server: Any = None

    @property
    def is_bound(self) -> bool:
        """Whether it has its port."""
        return self._server is not None

    def bind(self) -> None:
        """Take the port; a default port that is taken is only warned of.

        Raises:
            ConfigurationError: The port that was chosen is taken, or the certificate cannot be used.
        """
        limits = self._doorkeeper.config
        server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limits.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", limits.max_connections),
                ("grpc.max_connection_idle_ms", IDLE_CONNECTION_S * 1000),
                ("grpc.keepalive_time_ms", PING_EVERY_S * 1000),
                ("grpc.keepalive_timeout_ms", PING_PATIENCE_S * 1000),
            )
        )
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        address = f"{host}:{self._config.port}"
        credentials = self._credentials()
        try:
            if credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError:
            if self._config.is_wanted:
                raise ConfigurationError(
                    f"GRPC_PORT={self._config.port}: cannot listen on {address}, the port is taken or the address is "
                    "not of this machine; choose another, or 0 for no gRPC"
                ) from None
            log.warning("grpc_port_taken", address=address, remedy="set GRPC_PORT to a free port, or to 0 for no gRPC")
            return
        self._server = server

    async def open(self, parts: Parts) -> None:
        """Begin to answer; does nothing without a port."""
        if self._server is None:
            return
        pool = inference_pb2.DESCRIPTOR.pool
        for known in (health_pb2, reflection_pb2):
            pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        names = (SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME)
        outlets = Outlets(self._config.port, self._doorkeeper.config.stream_idle_timeout_s, parts.metrics)
        handlers = (
            Methods(parts, self._doorkeeper, outlets).table(),
            Health(parts, outlets).table(),
            Reflection(names, pool, outlets).table(),
            Unoffered(),
        )
        self._server.add_generic_rpc_handlers(handlers)
        await self._server.start()
        log.info("grpc_listens", port=self._config.port, tls=self._config.certfile is not None)

    async def close(self) -> None:
        """Take no more calls, and end those that are still open; inference calls have been waited for by the drain."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(LAST_GRACE_S)

    def _credentials(self) -> Any:
        """Return what TLS needs; None without a certificate.

        Raises:
            ConfigurationError: A file cannot be read.
        """
        if self._config.certfile is None or self._config.keyfile is None:
            return None
        try:
            pair = (self._config.keyfile.read_bytes(), self._config.certfile.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"SSL_CERTFILE, SSL_KEYFILE: they cannot be read: {error}") from None
        return grpc.ssl_server_credentials((pair,))
