"""A job: the standing wish that this source is sampled so and asked this prompt of this model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from freeroam.vocabulary.inference import InferenceParams

JOB_ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,128}$"
"""What a job may be called."""

LEAST_FPS = 1e-5
"""About one sample a day; slower ones would put the next due time beyond what clocks and integers hold."""

MAX_FRAMES = 2**53 - 1
"""Greatest count that JSON numbers hold exactly."""


class JobStatus(StrEnum):
    """Where a job is in its life; ``pending`` until the first frame."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE_STATUSES = frozenset({JobStatus.PENDING, JobStatus.RUNNING})
TERMINAL_STATUSES = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class Policy(StrEnum):
    """What happens to frames while a model is busy: ``latest`` drops and counts, ``block`` waits."""

    LATEST = "latest"
    BLOCK = "block"


class SourceOptions(BaseModel):
    """The whitelist of what a job may say about its source; nothing else reaches a decoder.

    Attributes:
        rtsp_transport: ``tcp`` (default) or ``udp`` are RTSP's; only ``tcp`` is spoken.
        headers: HTTP request headers sent to the stream's own host.
        verify_tls: Whether certificates are checked.
        stall_timeout_s: Silence after which a source is restarted; 0 never.
        start: Where a Redis stream is read from: ``oldest``, ``newest`` or an entry id.
        width_px: Override of the box that frames fit in.
        height_px: Override of the box that frames fit in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rtsp_transport: Literal["tcp"] = "tcp"
    headers: dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=8192)]] = Field(
        default_factory=dict, max_length=32
    )
    verify_tls: bool = True
    stall_timeout_s: float | None = Field(default=None, ge=0.0, le=86400.0)
    start: str = Field(default="oldest", max_length=64)
    width_px: int | None = Field(default=None, ge=16, le=16384)
    height_px: int | None = Field(default=None, ge=16, le=16384)


class JobSpec(BaseModel):
    """What a caller asked for, completed with defaults; stored as it is.

    Attributes:
        stream_ref: May hold credentials: show only through ``security.redaction``.
        prompt: The job's own prompt; None follows the global one.
        window: Frames a question; None takes what the model prefers.
        policy_is_default: Whether the caller left ``policy`` open; then a video that turns out to end is not dropped.
    """

    model_config = ConfigDict(frozen=True)

    job_id: str
    stream_ref: str
    prompt: str | None
    fps: float
    model: str | None = None
    window: int | None = None
    policy: Policy
    policy_is_default: bool = False
    priority: Literal["HIGH", "NORMAL", "LOW"] = "NORMAL"
    params: InferenceParams = Field(default_factory=InferenceParams)
    max_frames: int | None = None
    max_seconds: float | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    source: SourceOptions = Field(default_factory=SourceOptions)
    paused: bool = False
    owner: str = ""


class StartRequest(BaseModel):
    """What a caller may say when it starts a job; what is left out is completed from the settings.

    Attributes:
        stream_ref: What to watch.
        prompt: None takes the current prompt, and follows it.
        fps: Samples per second of stream time; None is ``DEFAULT_FPS``.
        job_id: 1 to 128 letters, digits, ``_ - . :``; None makes a UUID.
        model: ``name`` or ``name@version``; None is the default model.
        window: Frames a question; None is what the model prefers.
        policy: None is ``block`` for sources that end and for Redis, else ``latest``.
        max_frames: Ends the job after questions about this many frames.
        max_seconds: Ends the job this long after its first frame.
        tags: Free words of the caller, at most 32, of at most 1024 characters.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    stream_ref: str = Field(min_length=1, max_length=8192)
    prompt: str | None = None
    fps: float | None = Field(default=None, ge=LEAST_FPS)
    job_id: str | None = Field(default=None, pattern=JOB_ID_PATTERN)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    window: int | None = Field(default=None, ge=1, le=64)
    policy: Policy | None = None
    priority: Literal["HIGH", "NORMAL", "LOW"] = "NORMAL"
    params: InferenceParams = Field(default_factory=InferenceParams)
    max_frames: int | None = Field(default=None, ge=1, le=MAX_FRAMES)
    max_seconds: float | None = Field(default=None, gt=0.0)
    tags: dict[Annotated[str, Field(max_length=128)], Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=dict, max_length=32
    )
    source: SourceOptions = Field(default_factory=SourceOptions)


class JobPatch(BaseModel):
    """What may be changed while a job runs, from its next question on; None leaves a field as it is.

    Attributes:
        prompt: Becomes the newest version in the job's own scope; the job no longer follows the global prompt.
        params: Replaces all parameters.
        paused: True stops asking and closes the source; False goes on.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fps: float | None = Field(default=None, ge=LEAST_FPS)
    prompt: str | None = None
    model: str | None = Field(default=None, min_length=1, max_length=256)
    params: InferenceParams | None = None
    paused: bool | None = None


class SourceState(StrEnum):
    """What a source is doing."""

    CONNECTING = "connecting"
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    PAUSED = "paused"
    ENDED = "ended"
    FAILED = "failed"


class SourceStatus(BaseModel):
    """A source as a job's status shows it.

    Attributes:
        codec: Of the video, as FFmpeg names it.
        size: ``[height, width]`` of the video in pixels.
        fps: Native frames per second, where known.
        reconnects: How often it was opened again.
        last_error: Code of the last failure.
        seconds_since_frame: Age of the newest frame; None before the first.
        decode: Which packets are decoded: ``keyframes``, ``references`` or ``all``.
        skipped: Entries, segments or packets passed over, by reason.
    """

    state: SourceState = SourceState.CONNECTING
    kind: str | None = None
    codec: str | None = None
    size: list[int] | None = None
    fps: float | None = None
    variant: str | None = None
    decode: str | None = None
    reconnects: int = 0
    stalls: int = 0
    last_error: str | None = None
    last_error_message: str | None = None
    seconds_since_frame: float | None = None
    skipped: dict[str, int] = Field(default_factory=dict)
    last_bad: str | None = None


class Job(BaseModel):
    """A job with its progress, as stored and returned.

    Attributes:
        created_at: Epoch seconds, as are ``started_at`` (first frame) and ``completed_at``.
        frames_processed: Frames that a model answered about.
        frames_dropped: By reason.
        latency_ms: p50, p95, p99 of ``decode``, ``wait``, ``model``, ``total``.
    """

    spec: JobSpec
    status: JobStatus
    created_at: float
    started_at: float | None = None
    completed_at: float | None = None
    frames_processed: int = 0
    results_count: int = 0
    error: str | None = None
    error_code: str | None = None
    prompt: str | None = None
    prompt_version: int | None = None
    frames_dropped: dict[str, int] = Field(default_factory=dict)
    source: SourceStatus = Field(default_factory=SourceStatus)
    latency_ms: dict[str, dict[str, float]] = Field(default_factory=dict)
    cursor: dict[str, Any] = Field(default_factory=dict)
