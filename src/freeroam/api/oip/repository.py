"""The repository of models as the protocol sees it: what is loaded, what could be, loading and unloading by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from freeroam.api.model_loading import read_model_wish
from freeroam.api.oip.descriptions import repository_index
from freeroam.api.oip.requests import read_object
from freeroam.api.parts import ApiConfig, Parts
from freeroam.api.problems import explain_validation
from freeroam.engines.specs import ModelSpec
from freeroam.security.redaction import redact_url
from freeroam.vocabulary.errors import Conflict, InvalidInput, NotFound
from freeroam.vocabulary.model import ModelState
from freeroam.vocabulary.model_calls import ModelWish

Audit = Callable[..., None]
"""Writes who did what: called with the deed and its fields."""

_SOURCES = frozenset({"model_path", "model_type"})


def list_index(parts: Parts, *, only_ready: bool = False) -> list[dict[str, Any]]:
    """Return every version that is loaded, and those of the start that are not any more."""
    models = parts.engine.list_models()
    index = repository_index(models, only_ready=only_ready)
    if not only_ready:
        loaded = {(info.name, info.version) for info in models}
        index += [
            {"name": spec.name, "version": spec.version, "state": "UNAVAILABLE", "reason": ModelState.UNLOADED.value}
            for spec in parts.start_models
            if (spec.name, spec.version) not in loaded
        ]
    return index


async def load(parts: Parts, config: ApiConfig, name: str, parameters: Mapping[str, Any], audit: Audit) -> None:
    """Load a model, and return when it is ready.

    With ``model_path`` or ``model_type`` among the parameters it is loaded from there, as ``POST /api/v1/models`` does.
    Without, what the service was started with is loaded again; nothing is done for what is loaded.

    Args:
        parts: The engine.
        config: Which folders and types are allowed.
        name: Of the model.
        parameters: Fields of ``ModelWish``, also inside a JSON text ``config``.
        audit: Told what is done.

    Raises:
        InvalidInput: A parameter cannot be, or the model cannot be loaded.
        NotFound: The service was not started with such a model.
        Conflict: The version is there already, or the name is being changed.
        Draining: The service is stopping.
    """
    parts.lifecycle.check_admission()
    given = _wish_fields(parameters)
    if _SOURCES & given.keys():
        wish = _read_wish({**given, "name": name})
        specs = [read_model_wish(wish, config)]
    else:
        wish = _read_wish({"name": name})
        specs = _missing(parts, name, str(given.get("version", "")))
    for spec in specs:
        audit("model_load", model=spec.name, version=spec.version, path=redact_url(spec.model_path))
        await parts.loads.begin(parts.engine, spec, keep_previous=wish.keep_previous, unload_first=wish.unload_first)


async def unload(parts: Parts, name: str, audit: Audit) -> None:
    """Unload every version of a model.

    Raises:
        NotFound: There is none.
        Conflict: It is the default model, or the name is being changed.
    """
    models = parts.engine.list_models()
    versions = [info.version for info in models if info.name == name]
    if not versions:
        raise NotFound(f"Model {name[:100]} not found")
    if models[0].name == name:
        # Said before the first version is gone, because the last one could not go.
        raise Conflict(f"Model {name} is the default model, which stays; unload single versions of it instead")
    for version in versions:
        audit("model_unload", model=name, version=version)
        await parts.engine.unload_model(name, version)


def _missing(parts: Parts, name: str, version: str) -> list[ModelSpec]:
    """Return what the service was started with under a name and is not loaded now."""
    loaded = {info.version for info in parts.engine.list_models() if info.name == name}
    known = [spec for spec in parts.start_models if spec.name == name and version in {"", spec.version}]
    if not known and (not loaded or (version and version not in loaded)):
        raise NotFound(
            f"The service was not started with a model {name[:100]!r}; give model_path or model_type to load"
        )
    return [spec for spec in known if spec.version not in loaded]


def _wish_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are fields of a wish; Triton's own configuration is passed over."""
    if any(key.startswith("file:") for key in parameters):
        raise InvalidInput("files of a model are not taken over the wire; put them below MODEL_ROOTS, give model_path")
    given = {key: value for key, value in parameters.items() if key in ModelWish.model_fields}
    text = parameters.get("config")
    if text is None:
        return given
    if not isinstance(text, str):
        raise InvalidInput("parameter config must be a JSON text")
    configured = read_object(text.encode("utf-8", "replace"))
    inner = configured.pop("parameters", {})
    if isinstance(inner, dict):
        for key, value in inner.items():
            configured[key] = value.get("string_value") if isinstance(value, dict) else value
    # Triton's 0 means that there is no batch dimension; ours begin at 1.
    known = {
        key: value
        for key, value in configured.items()
        if key in ModelWish.model_fields and value is not None and value != 0
    }
    return {**known, **given}


def _read_wish(fields: Mapping[str, Any]) -> ModelWish:
    try:
        return ModelWish.model_validate(fields)
    except ValidationError as error:
        raise explain_validation([dict(item) for item in error.errors(include_input=False)]) from None
