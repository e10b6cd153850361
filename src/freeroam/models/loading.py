"""From the text of ``MODEL_TYPE`` to a model: a built-in name, an entry point, or ``package.module:Class``."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from freeroam.models.base import BaseVLM
from freeroam.vocabulary.errors import ConfigurationError, MissingExtra

GROUP = "freeroam.models"
BUILT_IN = {
    "detector": "freeroam.models.detector:Detector",
    "example_vlm": "freeroam.models.example_vlm:ExampleVLM",
    "fake": "freeroam.models.fake:FakeModel",
    "transformers_text": "freeroam.models.transformers_text:TransformersText",
    "transformers_vlm": "freeroam.models.transformers_vlm:TransformersVLM",
    "onnx_detector": "freeroam.models.onnx_detector:OnnxDetector",
    "openai_server": "freeroam.models.openai_server:OpenAIServer",
}


def check_model_type(model_type: str) -> None:
    """Refuse a text that cannot name a model, without importing anything.

    Raises:
        ConfigurationError: The message names ``MODEL_TYPE`` and what is allowed.
    """
    _address(model_type)


def load_model(model_type: str, options: dict[str, Any] | None = None) -> BaseVLM:
    """Make the model that ``model_type`` names; ``initialize`` has not been called.

    Args:
        model_type: ``detector``, ``example_vlm``, ``fake``, a name that a package registered as an entry point of
            ``freeroam.models``, or ``package.module:Class``.
        options: Keyword arguments for the class; those it does not take are an error, except for the ones that every
            model may be given (``threads``).

    Raises:
        ConfigurationError: There is no such model, or it is no ``BaseVLM``; the message names ``MODEL_TYPE``.
        MissingExtra: The model needs a library that is not installed.
    """
    address = _address(model_type)
    module_name, _, class_name = address.partition(":")
    try:
        found: Any = import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"MODEL_TYPE={model_type}: no module {error.name!r} (it must be installed or on PYTHONPATH)"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"MODEL_TYPE={model_type}: {module_name} has no {class_name!r}") from error
    if not (inspect.isclass(found) and issubclass(found, BaseVLM)):
        raise ConfigurationError(f"MODEL_TYPE={model_type}: {class_name} is no subclass of freeroam.BaseVLM")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigurationError(f"MODEL_TYPE={model_type}: {class_name} lacks {missing}")
    return _constructed(model_type, found, options or {})


def _constructed(model_type: str, model_class: type[BaseVLM], options: dict[str, Any]) -> BaseVLM:
    accepted = inspect.signature(model_class).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values())
    given = {key: value for key, value in options.items() if key != "threads" or key in accepted or takes_all}
    unknown = [] if takes_all else sorted(set(given) - set(accepted))
    if unknown:
        raise ConfigurationError(
            f"MODEL_TYPE={model_type}: unknown option {', '.join(unknown)}; it takes {', '.join(accepted) or 'none'}"
        )
    try:
        return model_class(**given)
    except MissingExtra:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"MODEL_TYPE={model_type}: {model_class.__name__}() failed: {type(error).__name__}: {error}"
        ) from error


def _address(model_type: str) -> str:
    if model_type in BUILT_IN:
        return BUILT_IN[model_type]
    registered = {point.name: point.value for point in entry_points(group=GROUP)}
    if model_type in registered:
        return registered[model_type]
    module_name, colon, class_name = model_type.partition(":")
    if colon and _is_dotted(module_name) and _is_dotted(class_name):
        if module_name == "__main__":
            raise ConfigurationError(
                f"MODEL_TYPE={model_type}: a model lives in a process of its own, which cannot import __main__; "
                "put the class into a module and name that"
            )
        return model_type
    names = ", ".join([*BUILT_IN, *sorted(registered)])
    raise ConfigurationError(f"MODEL_TYPE={model_type}: expected one of {names}, or package.module:Class")


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))
