"""The table from a form of reference to the source that reads it.

``references.py`` tells the kind by the text; a factory a kind builds the source, opening nothing. Other packages add
kinds by the entry point ``freeroam.sources``: its name is the scheme, its object a ``SourceFactory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Protocol

from freeroam.observability.logs import get_logger
from freeroam.sources.references import DECODER_PROTOCOLS, Reference, classify
from freeroam.sources.source import Source, SourceFactory, SourceRequest
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import Policy, SourceOptions

PLUGIN_GROUP = "freeroam.sources"
BUILT_IN_KINDS = ("hls", "http", "rtsp", "redis", "file", "demo")

log = get_logger(__name__)


class AddressPolicy(Protocol):
    """What opening asks of ``security.url_policy.UrlPolicy``."""

    def check_text(self, url: str) -> object:
        """Raise ForbiddenReference or InvalidInput for what the text of ``url`` alone shows."""
        ...


class Opener:
    """Turns references into sources.

    Args:
        factories: A factory a built-in kind (``hls``, ``http``, ``rtsp``, ``redis``, ``file``, ``demo``).
        policy: Asked about every network reference before its factory is; None in tests without addresses.
        plugins: A factory a scheme, see ``load_plugins``; never takes the place of a built-in kind.
    """

    def __init__(
        self,
        factories: Mapping[str, SourceFactory],
        policy: AddressPolicy | None = None,
        plugins: Mapping[str, SourceFactory] | None = None,
    ) -> None:
        self._factories = dict(factories)
        self._policy = policy
        self._plugins = {scheme: factory for scheme, factory in (plugins or {}).items() if scheme not in factories}

    def classify(self, stream_ref: str, options: SourceOptions | None = None) -> Reference:
        """Say what ``stream_ref`` is, checked as far as its text allows; nothing is opened.

        Args:
            stream_ref: What the user gave.
            options: The user's source settings, checked together with it.

        Raises:
            InvalidInput: It is malformed, not supported, or its options do not fit it.
            ForbiddenReference: Policy forbids it.
        """
        reference = classify(stream_ref, self._plugins.keys())
        if options is not None:
            _check_options(reference, options)
        self._build(reference, SourceRequest(stream_ref, FrameWish(fps=1.0), options or SourceOptions()))
        return reference

    def open(self, request: SourceRequest) -> Source:
        """Build the source of ``request``; it opens when its frames are asked for.

        Raises:
            InvalidInput: The reference is malformed or not supported.
            ForbiddenReference: Policy forbids it.
        """
        return self._build(classify(request.stream_ref, self._plugins.keys()), request)

    def default_policy(self, stream_ref: str) -> Policy:
        """Return the policy of a job on ``stream_ref`` that does not say one."""
        return classify(stream_ref, self._plugins.keys()).default_policy

    def can_go_back(self, stream_ref: str) -> bool:
        """Return whether ``stream_ref`` resumes after a named frame, and so is never shared between jobs."""
        return classify(stream_ref, self._plugins.keys()).can_go_back

    def _build(self, reference: Reference, request: SourceRequest) -> Source:
        factory = self._plugins.get(reference.kind) or self._factories.get(reference.kind)
        if factory is None:
            raise InvalidInput(f"this server has no source for {reference.kind} references")
        if self._policy is not None and "://" in reference.stream_ref and reference.kind in BUILT_IN_KINDS[:4]:
            self._policy.check_text(reference.stream_ref)
        return factory(request)


def _check_options(reference: Reference, options: SourceOptions) -> None:
    """Refuse what would be passed over in silence.

    Raises:
        InvalidInput: An option is for other kinds of source.
    """
    if reference.kind not in BUILT_IN_KINDS:
        return
    if options.headers and reference.kind not in {"hls", "http"}:
        raise InvalidInput(
            f"source.headers are sent by HTTP; a source of kind {reference.kind} has none: leave them out",
            detail={"field": "source.headers", "kind": reference.kind},
        )
    if "start" in options.model_fields_set and reference.kind != "redis":
        raise InvalidInput(
            f"source.start says where a Redis stream is read from; a source of kind {reference.kind} has no such place:"
            " leave it out",
            detail={"field": "source.start", "kind": reference.kind},
        )


def load_plugins() -> dict[str, SourceFactory]:
    """Return the factories that installed packages provide, by scheme.

    One that cannot be loaded, or whose name is a built-in kind or a decoder's protocol, is logged and left out.
    """
    plugins: dict[str, SourceFactory] = {}
    for entry in entry_points(group=PLUGIN_GROUP):
        scheme = entry.name.lower()
        if scheme in BUILT_IN_KINDS or scheme in DECODER_PROTOCOLS or scheme in {"https", "rtsps", "rediss"}:
            log.warning("source_plugin_refused", scheme=scheme, reason="the scheme is built in or a decoder's own")
            continue
        try:
            plugins[scheme] = entry.load()
        except Exception as error:
            log.warning("source_plugin_broken", scheme=scheme, error=f"{type(error).__name__}: {error}")
    return plugins
