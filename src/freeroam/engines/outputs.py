"""From a replica's message to the values that callers get."""

from __future__ import annotations

from typing import Any

from freeroam.batching.ticket import Ticket
from freeroam.engines.replica_process import ReplicaProcess
from freeroam.vocabulary.errors import FreeroamError, InvalidInput, ModelError
from freeroam.vocabulary.inference import FinishReason, Output, Prediction

_REASONS = {reason.value: reason for reason in FinishReason}


def output_of(
    answer: dict[str, Any], ticket: Ticket, replica: ReplicaProcess, times_s: tuple[float, float], batch_size: int
) -> Output:
    """Return the output of one request.

    Args:
        answer: What ``models.answers.normalised`` made of the model's answer.
        ticket: The request.
        replica: Who answered.
        times_s: Monotonic times when the model began its call and when the answer was complete.
        batch_size: Requests in the last step of the model.
    """
    started_s, ended_s = times_s
    extra: dict[str, Any] = answer["extra"]
    # What was spoken without being listened to comes as a whole.
    tokens = tuple(extra.pop("_tokens", ())) or tuple(ticket.tokens)
    return Output(
        predictions=[Prediction.model_validate(prediction) for prediction in answer["predictions"]],
        text=answer["text"],
        confidence=answer["confidence"],
        model=replica.spec.name,
        version=replica.spec.version,
        model_type=replica.model_type,
        device=replica.device,
        finish_reason=_finish_reason(extra.pop("finish_reason", None)),
        prompt_tokens=_count(extra.pop("prompt_tokens", 0)),
        completion_tokens=_count(extra.pop("completion_tokens", 0)),
        extra=extra,
        tokens=tokens,
        wait_ms=max(0.0, (started_s - ticket.admitted_s) * 1000.0),
        model_ms=(ended_s - started_s) * 1000.0,
        batch_size=batch_size,
        started_monotonic_s=started_s,
    )


def error_of(error: dict[str, str]) -> FreeroamError:
    """Return the error that a replica reported for one question; what cannot be asked is the asker's, not the model's.

    Args:
        error: Its ``code`` and what it says.
    """
    if error["code"] == InvalidInput.default_code:
        return InvalidInput(error["error"])
    return ModelError(error["error"], code=error["code"])


def _finish_reason(text: Any) -> FinishReason:
    return _REASONS.get(text, FinishReason.STOP) if isinstance(text, str) else FinishReason.STOP


def _count(number: Any) -> int:
    return number if isinstance(number, int) else 0
