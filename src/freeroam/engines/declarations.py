"""The file of ``MODELS``: more models at the start, and ensembles of them, in YAML or JSON."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from freeroam.engines.specs import EnsembleSpec, Gate, ModelSpec
from freeroam.models.paths import guess_model_type
from freeroam.vocabulary.errors import ConfigurationError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
_REFERENCE = rf"^{_NAME}(@[A-Za-z0-9._-]{{1,64}})?$"
_REFERENCE_IN_WORDS = "name or name@version of a model"
_MAX_FILE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What an entry gets that does not say.

    Attributes:
        device: ``DEVICE``.
        max_batch: ``MAX_BATCH_SIZE``.
        max_batch_wait_ms: ``MAX_BATCH_WAIT_MS``.
    """

    device: str = "auto"
    max_batch: int = 8
    max_batch_wait_ms: float = 5.0


def read_models_file(path: Path, defaults: ModelDefaults) -> tuple[ModelSpec | EnsembleSpec, ...]:
    """Return what a file declares, in its order.

    The paths in it are the operator's own and may lie anywhere.

    Args:
        path: A file in JSON if its name ends in ``.json``, else in YAML.
        defaults: What holds where an entry does not say.

    Raises:
        ConfigurationError: The file cannot be read, or an entry is wrong; the message names the file, the entry, the
            field and what is allowed.
    """
    entries = _entries(path)
    specs: list[ModelSpec | EnsembleSpec] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        where = f"MODELS={path}: entry {number}" + (f" ({name})" if isinstance(name, str) else "")
        specs.append(_read_entry(entry, where, defaults))
    _refuse_doubles(specs, path)
    return tuple(specs)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), strict=True)


_E = TypeVar("_E", bound=_Entry)


def _as_text(value: Any) -> Any:
    """Take a whole number for its text: who writes ``version: 2`` means it; ``1.10`` is a number that lost its 0."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Reference = Annotated[str, Field(pattern=_REFERENCE, description=_REFERENCE_IN_WORDS)]
Name = Annotated[str, Field(pattern=f"^{_NAME}$", description="letters, digits, . _ : / -; at most 128")]
Version = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="a text of letters, digits, . _ -; at most 64, in quotes"),
]


class _When(_Entry):
    labels: list[str] = Field(default_factory=list, description="a list of labels")
    min_count: int = Field(1, ge=1, description="a whole number from 1")
    threshold: float = Field(0.0, ge=0.0, le=1.0, description="a number from 0 to 1")


class _GateEntry(_Entry):
    model: Reference
    prompt: str | None = Field(None, description="a text")
    when: _When = Field(default_factory=_When, description="labels, min_count, threshold")


class _EnsembleEntry(_Entry):
    members: list[Reference] | None = Field(
        None, min_length=1, max_length=64, description=f"a list of {_REFERENCE_IN_WORDS}"
    )
    gate: _GateEntry | None = Field(None, description="model, prompt, when")
    then: Reference | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> _EnsembleEntry:
        if (self.members is None) == (self.gate is None) or (self.gate is None) != (self.then is None):
            raise ValueError("give either members, or gate with then")
        return self


class _NamedEnsemble(_Entry):
    name: Name
    ensemble: _EnsembleEntry = Field(description="members, or gate with then")


class _ModelEntry(_Entry):
    name: Name
    version: Version = "1"
    model_type: str | None = Field(None, min_length=1, description="what MODEL_TYPE may be")
    model_path: str = Field("", description="a folder, a file, or a name that the type understands")
    device: str | None = Field(None, pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")
    quantization: str | None = Field(None, description="none, or what the type offers")
    replicas: int = Field(1, ge=1, le=64, description="a whole number from 1 to 64")
    max_batch_size: int | None = Field(None, ge=1, le=64, description="a whole number from 1 to 64")
    max_batch_wait_ms: float | None = Field(None, ge=0, le=100, description="a number from 0 to 100")
    share: float | None = Field(None, ge=0, le=1e9, description="a number from 0")
    warmup: bool = Field(True, description="true or false")
    options: dict[str, Any] = Field(default_factory=dict, description="names and values for the model's class")

    @model_validator(mode="after")
    def _has_a_type(self) -> _ModelEntry:
        if self.model_type is None and not self.model_path:
            raise ValueError("model_type is needed where there is no model_path to find it out from")
        if self.quantization is not None and "quantization" in self.options:
            raise ValueError("quantization is given twice, in options too")
        return self


def _read_entry(entry: Any, where: str, defaults: ModelDefaults) -> ModelSpec | EnsembleSpec:
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"{where} is {entry!r:.80}; expected fields: {', '.join(_ModelEntry.model_fields)}")
    if "ensemble" in entry:
        named = _validated(_NamedEnsemble, entry, where)
        return _ensemble_of(named.name, named.ensemble)
    read = _validated(_ModelEntry, entry, where)
    options = dict(read.options)
    if read.quantization not in {None, "none"}:
        options["quantization"] = read.quantization
    return ModelSpec(
        name=read.name,
        version=read.version,
        model_type=read.model_type or guess_model_type(read.model_path),
        model_path=read.model_path,
        device=read.device or defaults.device,
        replicas=read.replicas,
        max_batch=read.max_batch_size or defaults.max_batch,
        max_batch_wait_ms=defaults.max_batch_wait_ms if read.max_batch_wait_ms is None else read.max_batch_wait_ms,
        options=options,
        warmup=read.warmup,
        share=read.share,
    )


def _ensemble_of(name: str, entry: _EnsembleEntry) -> EnsembleSpec:
    if entry.gate is None or entry.then is None:
        return EnsembleSpec(name, members=tuple(entry.members or ()))
    when = entry.gate.when
    gate = Gate(
        entry.gate.model, entry.then, entry.gate.prompt, tuple(when.labels), when.min_count, when.threshold
    )  # fmt: skip
    return EnsembleSpec(name, gate=gate)


def _validated(kind: type[_E], entry: Mapping[str, Any], where: str) -> _E:
    try:
        return kind.model_validate(dict(entry))
    except ValidationError as error:
        problems = "; ".join(_explain(kind, dict(item)) for item in error.errors(include_url=False))
        raise ConfigurationError(f"{where}: {problems}") from None


def _explain(kind: type[BaseModel], item: Mapping[str, Any]) -> str:
    """Return one problem in words: the field, its value, and what is allowed."""
    place = [str(step) for step in item["loc"]]
    message = str(item["msg"]).removeprefix("Value error, ")
    if not place:
        return message
    path = ".".join(place)
    if item["type"] == "missing":
        return f"{path} is missing (allowed: {_allowed(kind, place)})"
    if item["type"] == "extra_forbidden":
        return f"{path} is no field (there are: {_allowed(kind, place[:-1])})"
    if item["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path} is {item.get('input')!r:.80} (allowed: {_allowed(kind, place)})"


def _allowed(kind: type[BaseModel], place: list[str]) -> str:
    """Say what a field may be, or which fields an entry has."""
    described = ", ".join(kind.model_fields)
    found: type[BaseModel] | None = kind
    for step in place:
        field = None if found is None else found.model_fields.get(step)
        if field is None:
            break
        described = field.description or _REFERENCE_IN_WORDS
        found = _NESTED.get(step)
        if found is not None and step == place[-1]:
            described = ", ".join(found.model_fields)
    return described


_NESTED: dict[str, type[BaseModel]] = {"ensemble": _EnsembleEntry, "gate": _GateEntry, "when": _When}


def _refuse_doubles(specs: list[ModelSpec | EnsembleSpec], path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for spec in specs:
        version = spec.version if isinstance(spec, ModelSpec) else ""
        if (spec.name, version) in seen:
            raise ConfigurationError(f"MODELS={path}: {spec.name} version {version or '1'} is declared twice")
        seen.add((spec.name, version))


def _entries(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigurationError(f"MODELS={path} is larger than {_MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"MODELS={path} cannot be read: {error}") from error
    try:
        content = (
            json.loads(text, object_pairs_hook=_without_doubles)
            if path.suffix.lower() == ".json"
            else yaml.load(text, _Loader)  # noqa: S506 - it is a safe loader
        )
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"MODELS={path} is not understood: {error}") from error
    entries = content.get("models") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or content.keys() != {"models"}:
        raise ConfigurationError(f"MODELS={path}: expected one key, models, with a list of entries")
    return entries


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key is given twice in {', '.join(keys)}")
    return dict(pairs)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, which by itself takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping; refuses a key that is given twice."""
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping
