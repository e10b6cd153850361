"""Opens an ONNX file on the processor or a CUDA card; the one place where detectors meet onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeroam.vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path, device: str, threads: int) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a session and the device that it runs on.

    Args:
        path: The file.
        device: ``auto`` takes CUDA if this onnxruntime has it, else the processor; ``cpu``, ``cuda``, ``cuda:N``.
        threads: Threads of one call; 0 lets onnxruntime decide.

    Raises:
        ConfigurationError: No onnxruntime, a file it cannot load, or a CUDA device that is not there.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError("the detector needs onnxruntime; run: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores that decode video.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers, taken = _providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has an exception of its own for each way in which a file is broken
        raise ConfigurationError(f"MODEL_PATH={path}: onnxruntime cannot load it: {error}") from error
    if session.get_providers()[0] == "CPUExecutionProvider":
        if taken != "cpu" and device != "auto":
            raise ConfigurationError(f"DEVICE={device}: onnxruntime could not open that device")
        taken = "cpu"
    return session, taken


def _providers(device: str, available: Sequence[str]) -> tuple[list[Any], str]:
    has_cuda = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not has_cuda):
        return ["CPUExecutionProvider"], "cpu"
    if device == "auto" or device == "cuda" or device.startswith("cuda:"):
        if not has_cuda:
            raise ConfigurationError(
                f"DEVICE={device}: this onnxruntime has no CUDA; install onnxruntime-gpu, or set DEVICE=cpu"
            )
        number = device.partition(":")[2] or "0"
        if not number.isdecimal():
            raise ConfigurationError(f"DEVICE={device}: expected cuda or cuda:<number>")
        chosen = ("CUDAExecutionProvider", {"device_id": int(number)})
        return [chosen, "CPUExecutionProvider"], "cuda" if device == "auto" else device
    raise ConfigurationError(f"DEVICE={device}: expected auto, cpu, cuda or cuda:<number>")
