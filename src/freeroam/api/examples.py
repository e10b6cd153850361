"""Examples of what the doors answer, for the description that /docs and /redoc show."""

from __future__ import annotations

from typing import Any

from freeroam.api.problems import MEANINGS, detail_of
from freeroam.api.shapes import error_body
from freeroam.vocabulary import errors

_JOB = "5f0e9a61-5c1c-4c0e-9c55-0d7e6b1b2c3d"
_PROMPT = "Detect all people and vehicles"
_JOB_SUMMARY = {
    "job_id": _JOB,
    "status": "running",
    "stream_ref": "https://example.com/live.m3u8",
    "prompt": _PROMPT,
    "fps": 2.0,
    "created_at": 1705665600.0,
    "frames_processed": 120,
    "results_count": 120,
}
_DELAYS = {"p50": 2.4, "p95": 14.6, "p99": 20.1}
_JOB_STATUS = {
    **_JOB_SUMMARY,
    "started_at": 1705665601.0,
    "completed_at": None,
    "error": None,
    "error_code": None,
    "model": "detector@1",
    "prompt_version": 1,
    "follows_global_prompt": False,
    "policy": "latest",
    "window": None,
    "priority": "NORMAL",
    "params": {"threshold": 0.4},
    "max_frames": None,
    "max_seconds": None,
    "tags": {"place": "door"},
    "paused": False,
    "frames_dropped": {"busy": 3},
    "source": {
        "state": "running",
        "kind": "hls",
        "codec": "h264",
        "size": [360, 640],
        "fps": 25.0,
        "variant": None,
        "decode": "references",
        "reconnects": 0,
        "stalls": 0,
        "last_error": None,
        "last_error_message": None,
        "seconds_since_frame": 0.138,
        "skipped": {},
        "last_bad": None,
    },
    "latency_ms": {"decode": _DELAYS, "wait": _DELAYS, "model": _DELAYS, "total": _DELAYS},
}
_RESULT = {
    "id": 120,
    "predictions": [{"label": "person", "confidence": 0.5299, "bbox": [0.0, 3.4, 381.1, 286.5]}],
    "confidence": [0.5299],
    "text": "1 person",
    "error": None,
    "metadata": {
        "num_frames": 1,
        "frame_shape": [288, 512, 3],
        "prompt": _PROMPT,
        "model_type": "centernet-mobilenetv3-coco80",
        "device": "cpu",
        "timestamp": 1705665605.0,
        "model": "detector",
        "model_version": "1",
        "prompt_version": 1,
        "frame_ids": ["2600"],
        "stream_time": 2.6,
        "source_size": [360, 640],
        "timings_ms": {"decode": 8.038, "wait": 1.125, "model": 36.832, "total": 38.593},
    },
}
_PROMPT_DOCUMENT = {
    "prompt": "Detect only vehicles",
    "version": 2,
    "timestamp": 1705665600.0,
    "created_at": "2024-01-19T12:00:00.000Z",
    "updated_at": "2024-01-19T12:00:00.000Z",
    "job_id": None,
}
_USAGE = {"prompt_tokens": 34, "completion_tokens": 4, "total_tokens": 38}
_STATISTICS = {
    "p50": 35.4,
    "p95": 68.7,
    "p99": 69.6,
    "throughput": 2.0,
    "error_rate": 0.0,
    "wait_ms": _DELAYS,
    "model_ms": _DELAYS,
    "calls": 120,
    "mean_batch_size": 1.0,
    "questions": {"answered": 120, "failed": 0, "expired": 0, "cancelled": 0, "rejected": 0},
    "asked_again": 0,
    "replica_restarts": {},
}
_MODEL = {
    "name": "gpt2",
    "version": "2.0.0",
    "model_type": "transformers_text",
    "state": "ready",
    "device": "cpu",
    "wishes": {"width_px": None, "height_px": None, "window": 1, "max_batch": 8, "streams_text": True},
    "info": {"model_type": "transformers_text", "device": "cpu"},
    "replicas_ready": 1,
    "replicas_wanted": 1,
    "queued": 0,
    "running": 0,
    "statistics": _STATISTICS,
}
_MODEL_LIST = {
    "models": {
        "gpt2": {
            "name": "gpt2",
            "version": "2.0.0",
            "state": "ready",
            "model_type": "transformers_text",
            "device": "cpu",
            "versions": {"2.0.0": _MODEL},
        }
    },
    "total_models": 1,
}
_OPENAI_MODEL = {"id": "gpt2", "object": "model", "created": 1705665600, "owned_by": "freeroam"}
_TEXT_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1]}
_PROMPT_TENSOR = {"name": "prompt", "datatype": "BYTES", "shape": [1]}
_TRITON_STATISTICS = {
    "model_stats": [
        {
            "name": "gpt2",
            "version": "2.0.0",
            "last_inference": 1705665600000,
            "inference_count": 3,
            "execution_count": 2,
            "inference_stats": {"success": {"count": 3, "ns": 8966999}, "fail": {"count": 0, "ns": 0}},
        }
    ]
}
_TIME = "2024-01-19T12:00:00Z"

OF_DOCUMENT: dict[str, Any] = {
    "Health": {
        "status": "healthy",
        "uptime_seconds": 3600.5,
        "uptime_formatted": "1h 0m 0s",
        "timestamp": _TIME,
        "model_loaded": True,
        "active_connections": 3,
        "active_streams": 1,
        "version": "0.1.0",
    },
    "Readiness": {
        "ready": True,
        "status": "ready",
        "checks": {"model_loaded": True, "models_started": True, "store": True, "accepting": True},
        "timestamp": _TIME,
    },
    "Liveness": {"alive": True, "timestamp": _TIME},
    "JobStatusDocument": _JOB_STATUS,
    "JobList": {"jobs": [_JOB_SUMMARY], "total": 1},
    "JobMessage": {"message": f"Job {_JOB} cancelled", "job_id": _JOB},
    "JobPatch": {"fps": 1.0, "prompt": "Detect only vehicles"},
    "ResultsPage": {"job_id": _JOB, "status": "running", "results": [_RESULT], "total_results": 120},
    "Prompt": _PROMPT_DOCUMENT,
    "PromptHistory": {"history": [_PROMPT_DOCUMENT], "total": 1},
    "ModelInfo": _MODEL,
    "ModelList": _MODEL_LIST,
    "ModelMessage": {"message": "Model gpt2@1.0.0 unloaded", "name": "gpt2", "version": "1.0.0", "state": "unloaded"},
    "Traffic": {"name": "gpt2", "traffic": {"1.0.0": 0.9, "2.0.0": 0.1}},
    "ModelHealth": {
        "name": "gpt2",
        "version": "2.0.0",
        "healthy": True,
        "state": "ready",
        "replicas_ready": 1,
        "replicas_wanted": 1,
        "queued": 0,
        "error": None,
        "load_error": None,
    },
    "ServerStatus": {
        "connections": 3,
        "max_connections": 256,
        "streams": 1,
        "jobs": 1,
        "calls": 1,
        "models": {"gpt2@2.0.0": "ready"},
        "queues": {"gpt2@2.0.0": 0},
        "uptime_seconds": 3600.5,
        "draining": False,
    },
    "InferAnswer": {
        "request_id": "8a6e0804",
        "model": "gpt2",
        "version": "2.0.0",
        "tokens": ["there", " was", " a", " door"],
        "text": "there was a door",
        "finish_reason": "length",
        "usage": _USAGE,
    },
}
"""By the name of the document's class."""

OF_DEED: dict[str, Any] = {
    "GET /api/v1/capacity": {
        "streams": {"used": 1, "limit": 10, "free": 9},
        "models": [
            {
                "name": "detector",
                "version": "1",
                "state": "ready",
                "replicas_ready": 1,
                "replicas_wanted": 1,
                "queued": 0,
            }
        ],
        "workers": [{"name": "camera-box", "streams": 1}],
    },
    "GET /api/v1/inference/jobs/{job_id}/export": {"job_id": _JOB, "results": [_RESULT]},
    "GET /metrics": {"gpt2": {**_STATISTICS, "version": "2.0.0", "queued": 0, "versions": {"2.0.0": _STATISTICS}}},
    "POST /v1/chat/completions": {
        "id": "chatcmpl-8a6e0804",
        "object": "chat.completion",
        "created": 1705665600,
        "model": "gpt2",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "there was a door", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": _USAGE,
        "system_fingerprint": "gpt2@2.0.0",
    },
    "POST /v1/completions": {
        "id": "cmpl-8a6e0804",
        "object": "text_completion",
        "created": 1705665600,
        "model": "gpt2",
        "choices": [{"index": 0, "text": "there was a door", "logprobs": None, "finish_reason": "length"}],
        "usage": _USAGE,
        "system_fingerprint": "gpt2@2.0.0",
    },
    "GET /v1/models": {"object": "list", "data": [_OPENAI_MODEL]},
    "GET /v1/models/{model}": _OPENAI_MODEL,
    "GET /v2": {"name": "freeroam", "version": "0.1.0", "extensions": ["binary_tensor_data", "generate", "statistics"]},
    "GET /v2/health/live": {"live": True},
    "GET /v2/health/ready": {"ready": True},
    "GET /v2/models/stats": _TRITON_STATISTICS,
    "GET /v2/models/{model}": {
        "name": "gpt2",
        "versions": ["2.0.0"],
        "platform": "freeroam_transformers_text",
        "inputs": [_PROMPT_TENSOR],
        "outputs": [_TEXT_TENSOR],
    },
    "GET /v2/models/{model}/ready": {"name": "gpt2", "ready": True},
    "GET /v2/models/{model}/config": {
        "name": "gpt2",
        "platform": "freeroam_transformers_text",
        "backend": "freeroam",
        "max_batch_size": 0,
        "input": [{"name": "prompt", "data_type": "TYPE_STRING", "dims": [1], "optional": False}],
        "output": [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}],
        "model_transaction_policy": {"decoupled": True},
    },
    "GET /v2/models/{model}/stats": _TRITON_STATISTICS,
}
"""By method and path, where an answer has no class of its own."""


OF_STATUS: dict[int, errors.FreeroamError] = {
    400: errors.InvalidInput(
        "prompt cannot be empty", detail={"problems": [{"field": "prompt", "message": "prompt cannot be empty"}]}
    ),
    401: errors.Unauthenticated("The key is not known"),
    403: errors.PermissionDenied("The key 'viewer' lacks the right 'run'"),
    404: errors.NotFound("Model gpt2 not found"),
    409: errors.Conflict("Model gpt2 has version 2.0.0 already"),
    413: errors.TooLarge("The body is larger than 33554432 bytes (MAX_BODY_BYTES)"),
    415: errors.UnsupportedMedia("images.0 is no JPEG, PNG or WebP picture"),
    429: errors.RateLimited("More than 1000 requests in a minute", detail={"retry_after_seconds": 0.06}),
    500: errors.FreeroamError(
        "Internal error; the log has it under this X-Request-ID",
        detail={"request_id": "10a6c62d621ce8b93ecdd95ad937ade5"},
    ),
    503: errors.Draining("The service is stopping", retry_after_s=5.0),
    504: errors.DeadlineExceeded("No answer within 30 s (REQUEST_TIMEOUT)"),
}
OF_JOBS: dict[int, errors.FreeroamError] = {
    404: errors.NotFound(f"Job {_JOB} not found"),
    409: errors.Conflict(f"Job {_JOB} already exists"),
}
"""Where they read otherwise for what is below /api/v1/inference and /api/v1/prompt."""


def add_examples(schema: dict[str, Any]) -> None:
    """Put an example beside every JSON body of a description that has none."""
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if int(status) in MEANINGS:
                    _add_error(answer, path, int(status))
            contents = [operation.get("requestBody", {}).get("content", {})]
            contents += [
                answer.get("content", {}) for status, answer in operation["responses"].items() if status.startswith("2")
            ]
            for content in contents:
                _add_example(content.get("application/json"), f"{method.upper()} {path}")


def _add_error(answer: dict[str, Any], path: str, status: int) -> None:
    body = answer.get("content", {}).get("application/json")
    if body is None or OF_DOCUMENT.get(body.get("schema", {}).get("$ref", "").rpartition("/")[2]) is not None:
        return
    is_of_jobs = path.startswith(("/api/v1/inference", "/api/v1/prompt"))
    error = (OF_JOBS if is_of_jobs else {}).get(status, OF_STATUS[status])
    body["example"] = error_body(path, status, error.message, detail_of(error))


def _add_example(body: dict[str, Any] | None, deed: str) -> None:
    if body is None or "example" in body or "examples" in body:
        return
    document = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
    example = OF_DOCUMENT.get(document, OF_DEED.get(deed))
    if example is not None:
        body["example"] = example
