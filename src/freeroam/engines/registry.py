"""Which models there are: names, their versions, and the version that answers for a name."""

from __future__ import annotations

from collections.abc import Iterator

from freeroam.engines.served_model import ServedModel
from freeroam.vocabulary.errors import Conflict, NotFound


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return name and version of ``name`` or ``name@version``."""
    name, at, version = reference.partition("@")
    return name, version if at else None


class Registry:
    """The served models; the first name added is the default, the first version of a name is the one that answers."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._active: dict[str, str] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in list(self._models.values()):
            yield from list(versions.values())

    def add(self, model: ServedModel) -> None:
        """Take in one version.

        Raises:
            Conflict: The name has that version already.
        """
        name, version = model.spec.name, model.spec.version
        versions = self._models.setdefault(name, {})
        if version in versions:
            raise Conflict(f"model {name} has version {version} already")
        versions[version] = model
        self._active.setdefault(name, version)

    def resolve(self, reference: str | None) -> ServedModel:
        """Return the version that answers now.

        Args:
            reference: ``name``, ``name@version``, or None or empty for the default model.

        Raises:
            NotFound: No such model or version; the message lists those there are.
        """
        if not self._models:
            raise NotFound("no model is loaded")
        name, version = split_reference(reference or next(iter(self._models)))
        versions = self._models.get(name)
        if versions is None:
            raise NotFound(f"Model {name} not found; there are: {', '.join(self._models)}")
        found = versions.get(self._active[name] if version is None else version)
        if found is None:
            raise NotFound(f"Model {name} has no version {version}; there are: {', '.join(versions)}")
        return found

    def remove(self, model: ServedModel) -> None:
        """Forget one version; the first of those left answers for the name."""
        name, version = model.spec.name, model.spec.version
        del self._models[name][version]
        if not self._models[name]:
            del self._models[name], self._active[name]
        elif self._active[name] == version:
            self._active[name] = next(iter(self._models[name]))

    def activate(self, name: str, version: str) -> None:
        """Let one version answer for its name from now on."""
        self._active[name] = self.resolve(f"{name}@{version}").spec.version

    def versions(self, name: str) -> list[ServedModel]:
        """Return every version of a name, oldest first; none if there is no such name."""
        return list(self._models.get(name, {}).values())
