"""Which models there are: names, their versions, ensembles, and who answers for a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from freeroam.batching.ticket import Ticket
from freeroam.engines.ensembles import Ensemble
from freeroam.engines.served_model import ServedModel
from freeroam.engines.traffic import Traffic
from freeroam.vocabulary.errors import Conflict, InvalidInput, NotFound
from freeroam.vocabulary.model import ModelInfo

Answering = ServedModel | Ensemble


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return name and version of ``name`` or ``name@version``."""
    name, at, version = reference.partition("@")
    return name, version if at else None


class _Name:
    """What is known under one name.

    Attributes:
        versions: By version, oldest first; those that only finish what they have included.
        traffic: How requests that name no version are split; None if no version takes any.
        is_changing: Whether somebody loads, unloads or swaps now.
    """

    def __init__(self) -> None:
        self.versions: dict[str, Answering] = {}
        self.traffic: Traffic | None = None
        self.is_changing = False


class Registry:
    """All models; the first name that was added is the default."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def __iter__(self) -> Iterator[Answering]:
        for name in list(self._names.values()):
            yield from list(name.versions.values())

    @property
    def models(self) -> list[ServedModel]:
        """Every version of every name that is no ensemble."""
        return [found for found in self if isinstance(found, ServedModel)]

    @property
    def default(self) -> str | None:
        """The name that answers requests which name none."""
        for name, known in self._names.items():
            if known.versions:
                return name
        return None

    def claim(self, name: str) -> None:
        """Begin to change a name; ``release`` ends it.

        Raises:
            Conflict: Somebody changes it now.
        """
        self.refuse_changing(name)
        self._names.setdefault(name, _Name()).is_changing = True

    def release(self, name: str) -> None:
        """End a change."""
        self._names[name].is_changing = False
        self._forget_empty(name)

    def add(self, model: Answering, *, is_asked: bool = False) -> None:
        """Take in one version.

        Args:
            model: The version.
            is_asked: Whether it gets all requests that name no version, if no other version does.

        Raises:
            Conflict: The name has that version already, or belongs to an ensemble.
        """
        name, version = model.spec.name, model.version
        self.refuse_taken(name, version)
        known = self._names.setdefault(name, _Name())
        known.versions[version] = model
        if is_asked and known.traffic is None:
            known.traffic = Traffic({version: 1.0})

    def refuse_taken(self, name: str, version: str) -> None:
        """Refuse a version that cannot be added.

        Raises:
            Conflict: The name has that version already, or belongs to an ensemble.
        """
        known = self._names.get(name)
        found = known.versions.get(version) if known is not None else None
        if found is not None:
            raise Conflict(f"model {name} has version {version} already; it is {found.state.value}")
        if known is not None and any(isinstance(other, Ensemble) for other in known.versions.values()):
            raise Conflict(f"{name} is the name of an ensemble, which has no further versions")

    def refuse_changing(self, name: str) -> None:
        """Refuse to touch a name that somebody changes now.

        Raises:
            Conflict: Somebody does.
        """
        if name in self._names and self._names[name].is_changing:
            raise Conflict(f"model {name} is being changed now; try again when that is done")

    def remove(self, model: Answering) -> None:
        """Forget one version; nothing if it is not known."""
        name, version = model.spec.name, model.version
        known = self._names.get(name)
        if known is None or known.versions.get(version) is not model:
            return
        self.stop_asking(model)
        del known.versions[version]
        self._forget_empty(name)

    def stop_asking(self, model: Answering) -> None:
        """Send no request to a version that does not name it; its share goes to those that have one, or to the newest.

        A version that has no share keeps none while others have.
        """
        known = self._names[model.spec.name]
        traffic = known.traffic
        if traffic is None or model.version not in traffic.shares or known.versions.get(model.version) is not model:
            return
        known.traffic = traffic.without(model.version)
        if known.traffic is None:
            others = [other for other in known.versions.values() if other is not model and not other.is_retired]
            known.traffic = Traffic({others[-1].version: 1.0}) if others else None

    def share(self, name: str, shares: Mapping[str, float]) -> None:
        """Split the requests that name no version.

        Raises:
            NotFound: No such model or version.
            InvalidInput: The shares are none.
        """
        known = self._known(name)
        for version in shares:
            if self.resolve(f"{name}@{version}").is_retired:
                raise NotFound(f"Model {name} version {version} is being unloaded")
        if not shares:
            raise InvalidInput("no version is given a share")
        known.traffic = Traffic(shares)

    def shares(self, name: str) -> dict[str, float]:
        """Return the shares of a name's versions; none if no version is asked."""
        known = self._names.get(name)
        return dict(known.traffic.shares) if known is not None and known.traffic is not None else {}

    def versions(self, name: str) -> list[ServedModel]:
        """Return the versions of a name that take requests, oldest first; none if there is no such name."""
        known = self._names.get(name)
        found = () if known is None else known.versions.values()
        return [model for model in found if isinstance(model, ServedModel) and not model.is_retired]

    def resolve(self, reference: str | None) -> Answering:
        """Return the version that is named, or for a bare name the one that gets most requests.

        Args:
            reference: ``name``, ``name@version``, or None or empty for the default model.

        Raises:
            NotFound: No such model or version; the message lists those there are.
        """
        name, version = split_reference(reference or self.default or "")
        known = self._known(name)
        if version is None:
            version = self._traffic(name, known).main
        found = known.versions.get(version)
        if found is None:
            raise NotFound(f"Model {name} has no version {version}; there are: {', '.join(known.versions)}")
        return found

    def route(self, reference: str | None) -> Answering:
        """Return the version that answers the next request; raises as ``resolve`` does."""
        name, version = split_reference(reference or self.default or "")
        if version is not None:
            return self.resolve(reference)
        known = self._known(name)
        versions = known.versions
        return versions[self._traffic(name, known).next(lambda version: versions[version].is_open)]

    def rehome(self, name: str, tickets: list[Ticket]) -> list[Ticket]:
        """Let the versions that answer for a name take in requests; return those that none can take."""
        known = self._names.get(name)
        if known is None or known.traffic is None:
            return tickets
        taken: dict[str, list[Ticket]] = {}
        for ticket in tickets:
            target = self.route(name)
            taken.setdefault(target.version, []).append(ticket)
        for version, group in taken.items():
            target = known.versions[version]
            if isinstance(target, ServedModel):
                target.take_in(group)
        return []

    def needed_by(self, model: ServedModel, *, is_last: bool) -> str | None:
        """Return the ensemble that could not be asked any more without a version; None if there is none.

        Args:
            model: The version.
            is_last: Whether no other version of its name would be left.
        """
        needed = {f"{model.spec.name}@{model.version}"} | ({model.spec.name} if is_last else set())
        ensembles = (found.spec for found in self if isinstance(found, Ensemble))
        return next((spec.name for spec in ensembles if needed & set(spec.parts)), None)

    def describe(self, model: Answering) -> ModelInfo:
        """Return what the outside sees of a version, with its share."""
        info = model.describe()
        info.share = self.shares(info.name).get(info.version, 0.0)
        return info

    def _known(self, name: str) -> _Name:
        known = self._names.get(name)
        if known is None or not known.versions:
            names = [name for name, known in self._names.items() if known.versions]
            there = f"there are: {', '.join(names)}" if names else "none is loaded"
            raise NotFound(f"Model {name} not found; {there}")
        return known

    def _traffic(self, name: str, known: _Name) -> Traffic:
        if known.traffic is None:
            raise NotFound(f"Model {name} is being unloaded")
        return known.traffic

    def _forget_empty(self, name: str) -> None:
        known = self._names.get(name)
        if known is not None and not known.versions and not known.is_changing:
            del self._names[name]
