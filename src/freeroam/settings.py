"""The only reader of the environment: every setting with its default, its bounds and what it means."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from freeroam.api.parts import ApiConfig
from freeroam.engines.declarations import ModelDefaults, read_models_file
from freeroam.engines.specs import EngineConfig, EnsembleSpec, ModelSpec
from freeroam.jobs.parts import JobConfig
from freeroam.models.paths import is_address
from freeroam.secret_files import SECRETS, SecretFiles
from freeroam.security.keys import Key, read_keys_file
from freeroam.security.limits import RateConfig
from freeroam.security.redaction import redact_url
from freeroam.setting_forms import List, Seconds, allowed_by, read_limit
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.limits import SourceLimits
from freeroam.sources.reconnecting import SourceConfig
from freeroam.sources.redis_stream import RedisConfig
from freeroam.vocabulary.errors import ConfigurationError

LATER_SETTINGS = {
    "SECRET_KEY": "browser sessions and saved cameras",
    "SESSION_TTL": "browser sessions",
    "KEEP_FRAMES": "kept pictures",
    "MIN_REPLICAS": "ENGINE=ray",
    "MAX_REPLICAS": "ENGINE=ray",
    "TARGET_ONGOING_REQUESTS": "ENGINE=ray",
    "GPUS_PER_REPLICA": "ENGINE=ray",
    "INFERENCE_SERVICE_URL": "ENGINE=remote",
    "STREAMING_SERVICE_URL": "ROLE=api",
    "ICE_SERVERS": "WebRTC",
    "ICE_UDP_PORTS": "WebRTC",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "tracing",
}
"""Names that are reserved and not read yet, with the feature that they belong to."""


class Settings(BaseSettings):
    """Every setting; a field's name in upper case is its environment variable."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 is every network.")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 takes any free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0 turns it off.")
    root_path: str = Field("", description="Path under which a proxy serves this service, e.g. /vision.")
    ssl_certfile: Path | None = Field(None, description="Certificate chain (PEM) for HTTPS.")
    ssl_keyfile: Path | None = Field(None, description="Private key (PEM) for HTTPS.")

    allow_anonymous: bool = Field(False, description="Serve peers off this machine without a key.")
    api_key: SecretStr | None = Field(None, description="One key with every right.")
    api_keys_file: Path | None = Field(
        None, description="JSON or TOML file with many keys, each with name, rights and limits."
    )
    trusted_proxies: List = Field((), description="Addresses and networks whose X-Forwarded-For is believed.")
    cors_origins: List = Field((), description="Web origins that may call from a browser, e.g. https://app.example.")
    metrics_public: bool = Field(False, description="Serve /metrics without a key.")
    enable_metrics: bool = Field(True, description="Serve /metrics at all.")

    model_type: str = Field("detector", description="A built-in name, or package.module:Class.")
    model_path: str = Field("", description="Folder, file or name that the model loads from.")
    model_roots: List = Field(
        (), description="Folders, hub names and servers that models may be loaded from at run time; MODEL_PATH's own."
    )
    models: Path | None = Field(None, description="YAML or JSON file with more models, and ensembles of them.")
    model_version: str = Field("1", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Version of the model of the start.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    num_replicas: int = Field(1, ge=1, le=64, description="Processes that run the model.")
    model_load_timeout: Seconds = Field(600, description="Seconds a model may take to load.")
    model_health_interval: Seconds = Field(30, description="Seconds between two looks of a model at itself.")
    inference_timeout: Seconds = Field(60, description="Seconds a model call may take before its process is replaced.")
    max_batch_size: int = Field(8, ge=1, le=64, description="Questions in one model call.")
    max_batch_wait_ms: float = Field(5, ge=0, le=100, description="Longest wait for a fuller batch, milliseconds.")
    max_queue: int = Field(1024, ge=1, le=1_000_000, description="Questions that may wait for a model.")
    max_priority_wait: Seconds = Field(5, description="Seconds after which a question goes before higher priorities.")

    default_fps: float = Field(2.0, gt=0, le=1000, description="Frames a second that are asked about.")
    max_fps: float = Field(30, gt=0, le=1000, description="Greatest fps a job may ask for.")
    max_waiting_bytes: int = Field(2**26, ge=0, description="Frames of a latest job that wait for its model's swap.")
    max_concurrent_streams: int = Field(10, ge=1, le=100_000, description="Jobs that may run at once.")
    max_prompt_chars: int = Field(32_768, ge=1, description="Longest prompt.")
    max_tokens: int = Field(4096, ge=1, description="Longest spoken answer, whoever asks and whatever model speaks.")

    max_connections: int = Field(256, ge=1, description="Requests, streams and sockets open at once.")
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="Greatest request body.")
    max_images: int = Field(16, ge=1, le=256, description="Pictures that one question of a client may bring.")
    max_pixels: int = Field(50_000_000, ge=256, description="Greatest picture, width times height.")
    max_picture_bytes: int = Field(2**30, ge=2**20, description="Decoded pictures of all open questions of clients.")
    request_timeout: Seconds = Field(30, description="Seconds a head may take to come, and an answer to begin.")
    stream_idle_timeout: Seconds = Field(60, description="Seconds a reader may drain nothing; a quiet stream is fine.")
    drain_timeout: Seconds = Field(30, description="Seconds a graceful stop may take.")
    rate_limit_per_minute: int = Field(1000, ge=0, description="Requests a minute and client; 0 is without limit.")
    rate_limits: List = Field(
        (), description="Further limits, e.g. POST /api/v1/inference/start=60, GET /metrics=30 (a minute and client)."
    )

    source_open_timeout: Seconds = Field(10, description="Seconds until a source must have opened.")
    source_read_timeout: Seconds = Field(5, description="Seconds a source may be silent inside an answer.")
    source_stall_timeout: Seconds = Field(20, description="Seconds without a frame until a source is restarted.")
    source_max_retries: int = Field(0, ge=0, description="Reconnects of a source; 0 is for ever.")
    allow_private_sources: List = Field(
        (), description="Private networks and hosts that may be opened, e.g. 192.168.1.0/24, cam1.local."
    )
    source_file_bytes: int = Field(
        2 * 2**30, ge=2**20, description="Greatest recording read by a temporary file, where a server gives no ranges."
    )
    source_disk_bytes: int = Field(8 * 2**30, ge=2**20, description="Disk that all such temporary files may take.")
    source_playlist_bytes: int = Field(
        2**20, ge=1024, le=2**30, description="Greatest playlist of HLS; recordings of many hours have long ones."
    )
    source_segment_bytes: int = Field(64 * 2**20, ge=1024, le=2**40, description="Greatest segment of HLS.")
    source_picture_bytes: int = Field(
        32 * 2**20, ge=1024, le=2**27, description="Greatest compressed picture of a snapshot, MJPEG stream or file."
    )
    frame_memory_bytes: int = Field(
        512 * 2**20,
        ge=0,
        le=2**40,
        description="Memory in which each decoder process shares its frames; frames beyond are copied; 0 copies all.",
    )
    media_root: Path | None = Field(None, description="Folder that file: references may name; none allows no files.")

    redis_host: str = Field("localhost", description="Redis with frames.")
    redis_port: int = Field(6379, ge=1, le=65535, description="Its port; tcp://10.0.0.1:6379 is understood too.")
    redis_db: int = Field(0, ge=0, description="Its database.")
    redis_password: SecretStr | None = Field(None, description="Its password.")
    redis_url: SecretStr | None = Field(None, description="All of it in one, redis:// or rediss://; wins.")

    database_url: SecretStr | None = Field(None, description="An SQLite file in DATA_DIR unless set.")
    data_dir: Path = Field(Path("data"), description="Where the service keeps what it must remember.")
    lease_timeout: Seconds = Field(10, description="Seconds after which a lost worker's jobs are taken over.")
    memory_cleanup_interval: Seconds = Field(300, description="Seconds between clearings of what is old.")
    results_retention_hours: float = Field(168, gt=0, description="Hours that results and finished jobs are kept.")

    engine: Literal["embedded"] = Field("embedded", description="Where models run.")
    role: Literal["all"] = Field("all", description="Which part of the service this process is.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level shown."
    )
    log_format: Literal["json", "text"] | None = Field(None, description="json, or text; text on a terminal.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then files with secrets, then the environment, then ``.env``."""
        files = SecretFiles(settings_cls, env_settings, dotenv_settings)
        return init_settings, files, env_settings, dotenv_settings

    @model_validator(mode="before")
    @classmethod
    def _understand_kubernetes(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Take ``REDIS_PORT=tcp://10.0.0.1:6379``, which Kubernetes injects beside a service named redis."""
        port = data.get("redis_port")
        if isinstance(port, str) and port.startswith("tcp://"):
            parts = urlsplit(port)
            data = {**data, "redis_port": parts.port or 6379}
            data.setdefault("redis_host", parts.hostname or "localhost")
        return data

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text, strict=False)
        return value

    @field_validator("rate_limits")
    @classmethod
    def _are_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            read_limit(text)
        return value

    @field_validator("root_path")
    @classmethod
    def _begins_with_a_slash(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("must begin with /")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("SSL_CERTFILE and SSL_KEYFILE are set together or not at all")
        if self.default_fps > self.max_fps:
            raise ValueError(f"DEFAULT_FPS={self.default_fps:g} is above MAX_FPS={self.max_fps:g}")
        return self

    @property
    def proxy_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """``TRUSTED_PROXIES`` as networks."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in self.trusted_proxies)

    @property
    def full_redis_url(self) -> str:
        """Where Redis is, with the password."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        password = f":{quote(self.redis_password.get_secret_value(), safe='')}@" if self.redis_password else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{password}{host}:{self.redis_port}/{self.redis_db}"

    @property
    def full_database_url(self) -> str:
        """Where the store is."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'freeroam.db').resolve()}"

    def key_list(self) -> tuple[Key, ...]:
        """Return the keys of ``API_KEY`` and ``API_KEYS_FILE``."""
        keys = [Key.of_text("api-key", self.api_key.get_secret_value())] if self.api_key else []
        if self.api_keys_file:
            keys += read_keys_file(self.api_keys_file)
        return tuple(keys)

    def api_config(self) -> ApiConfig:
        """Return what the api must know."""
        return ApiConfig(
            keys=self.key_list(),
            allow_anonymous=self.allow_anonymous,
            trusted_proxies=self.proxy_networks,
            own_names=(self.host.lower(),),
            cors_origins=self.cors_origins,
            metrics_public=self.metrics_public,
            enable_metrics=self.enable_metrics,
            rates=RateConfig(self.rate_limit_per_minute, dict(read_limit(text) for text in self.rate_limits)),
            max_connections=self.max_connections,
            max_body_bytes=self.max_body_bytes,
            max_prompt_chars=self.max_prompt_chars,
            max_tokens=self.max_tokens,
            max_images=self.max_images,
            max_picture_bytes=self.max_picture_bytes,
            max_pixels=self.max_pixels,
            max_batch_size=self.max_batch_size,
            max_batch_wait_ms=self.max_batch_wait_ms,
            model_roots=self.model_folders(),
            model_addresses=self.model_addresses(),
            model_types=tuple({spec.model_type for spec in self.model_specs() if isinstance(spec, ModelSpec)}),
            request_timeout_s=self.request_timeout,
            stream_idle_timeout_s=self.stream_idle_timeout,
            root_path=self.root_path,
        )

    def job_config(self) -> JobConfig:
        """Return what jobs may be."""
        return JobConfig(
            default_fps=self.default_fps,
            max_fps=self.max_fps,
            max_tokens=self.max_tokens,
            max_concurrent_streams=self.max_concurrent_streams,
            max_batch_size=self.max_batch_size,
            retention_s=self.results_retention_hours * 3600.0,
            cleanup_interval_s=self.memory_cleanup_interval,
            lease_timeout_s=self.lease_timeout,
            max_waiting_bytes=self.max_waiting_bytes,
        )

    def model_folders(self) -> tuple[Path, ...]:
        """Return the folders that models may be loaded from at run time."""
        if self.model_roots:
            return tuple(Path(root) for root in self.model_roots if not is_address(root))
        path = Path(self.model_path) if self.model_path else None
        if path is None or not path.exists():
            return ()
        return (path if path.is_dir() else path.parent,)

    def model_addresses(self) -> tuple[str, ...]:
        """Return the addresses of servers below which models may be loaded at run time."""
        return tuple(root for root in self.model_roots or (self.model_path,) if is_address(root))

    def model_specs(self) -> tuple[ModelSpec | EnsembleSpec, ...]:
        """Return what is to be loaded at the start; a class of one's own is called by its class name."""
        defaults = ModelDefaults(self.device, self.max_batch_size, self.max_batch_wait_ms)
        more = read_models_file(self.models, defaults) if self.models else ()
        spec = ModelSpec(
            name=self.model_type.rpartition(":")[2].rpartition(".")[2],
            version=self.model_version,
            model_type=self.model_type,
            model_path=self.model_path,
            device=self.device,
            replicas=self.num_replicas,
            max_batch=self.max_batch_size,
            max_batch_wait_ms=self.max_batch_wait_ms,
        )
        return (spec, *more)

    def engine_config(self) -> EngineConfig:
        """Return what holds for all models."""
        return EngineConfig(
            max_queue=self.max_queue,
            max_priority_wait_s=self.max_priority_wait,
            load_timeout_s=self.model_load_timeout,
            max_tokens=self.max_tokens,
            inference_timeout_s=self.inference_timeout,
            health_interval_s=self.model_health_interval,
        )

    def decoder_config(self) -> DecoderConfig:
        """Return how decoding is bounded."""
        return DecoderConfig(max_pixels=self.max_pixels, ring_bytes=self.frame_memory_bytes)

    def source_limits(self) -> SourceLimits:
        """Return how large pieces of a source may be."""
        return SourceLimits(self.source_playlist_bytes, self.source_segment_bytes, self.source_picture_bytes)

    def source_config(self) -> SourceConfig:
        """Return how patient reconnecting is."""
        return SourceConfig(
            open_timeout_s=self.source_open_timeout,
            stall_timeout_s=self.source_stall_timeout,
            max_retries=self.source_max_retries,
        )

    def redis_config(self) -> RedisConfig:
        """Return where the operator's own Redis is."""
        return RedisConfig(
            url=self.full_redis_url,
            connect_timeout_s=self.source_open_timeout,
            read_timeout_s=self.source_read_timeout,
            max_pixels=self.max_pixels,
        )


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and ``.env``.

    Args:
        overrides: Fields that win over both (command line, tests).

    Raises:
        ConfigurationError: A value is wrong; the message names the variable, the value and what is allowed.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(dict(item)) for item in error.errors())) from None


def set_but_unused() -> list[str]:
    """Return the names of ``LATER_SETTINGS`` that are set in the environment."""
    return [name for name in LATER_SETTINGS if os.environ.get(name)]


def allowed_values(name: str) -> str:
    """Say in words what the setting ``name`` (a field's name) may be."""
    return allowed_by(Settings.model_json_schema()["properties"][name])


def _explain(item: Mapping[str, Any]) -> str:
    """Return one problem in words, with the variable's name; a secret's value is not shown."""
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    field = str(item["loc"][0])
    name = field.upper()
    value = "***" if name in SECRETS else redact_url(str(item.get("input")))
    return f"{name}={value}: {message[:1].lower()}{message[1:]} (allowed: {allowed_values(field)})"
