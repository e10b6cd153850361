"""What kind of video a ``stream_ref`` names, told by its form alone; pure, opens nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.job import Policy

MAX_REFERENCE_CHARS = 4096
OWN_KEY_PREFIX = "freeroam:"
"""Redis keys that begin so are the service's own bus, never a video."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._\-]*):")
_KEY = re.compile(r"[A-Za-z0-9_.:\-]+\Z")
_UNUSABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")

_OF_A_LATER_RELEASE = {
    "camera": "saved cameras",
    "webrtc": "a browser's camera over WebRTC",
    "push": "frames pushed over a WebSocket",
}

# fmt: off
DECODER_PROTOCOLS = frozenset({
    "amqp", "android_content", "async", "bluray", "cache", "concat", "concatf", "crypto", "data", "dtls", "fd",
    "ffrtmpcrypt", "ffrtmphttp", "file", "ftp", "gopher", "gophers", "hls", "http", "httpproxy", "https", "icecast",
    "ipfs", "ipfs_gateway", "ipns", "librist", "librtmp", "librtmpe", "librtmps", "librtmpt", "librtmpte", "libsrt",
    "libssh", "libzmq", "md5", "mmsh", "mmst", "mmsu", "pipe", "prompeg", "rist", "rtmp", "rtmpe", "rtmps", "rtmpt",
    "rtmpte", "rtmpts", "rtp", "rtsp", "rtsps", "sap", "sctp", "sdp", "sftp", "smb", "srt", "srtp", "subfile", "tcp",
    "tee", "tls", "udp", "udplite", "unix", "zmq",
})
# fmt: on
"""What FFmpeg takes before a colon (``ffmpeg -protocols``, and its network demuxers)."""

# fmt: off
OTHER_SCHEMES = frozenset({
    "about", "alsa", "avfoundation", "az", "blob", "chrome", "dict", "dshow", "dvb", "ftps", "git", "gs", "imap",
    "imaps", "ipp", "jar", "javascript", "lavfi", "ldap", "ldaps", "ldapi", "mailto", "mms", "ndi", "netdoc", "nfs",
    "onvif", "php", "phar", "pop3", "pop3s", "pulse", "redis", "rediss", "rpc", "s3", "scp", "smtp", "smtps", "srb",
    "ssh", "telnet", "tftp", "urn", "v4l2", "video4linux2", "view-source", "whep", "whip", "ws", "wss", "x11grab",
    "xcbgrab",
})
# fmt: on
"""Other words that a library, a browser or a person takes as a scheme."""

_RESERVED_WORDS = DECODER_PROTOCOLS | OTHER_SCHEMES | _OF_A_LATER_RELEASE.keys() | {"demo"}


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that was understood.

    Attributes:
        stream_ref: As given; may hold credentials.
        kind: ``hls``, ``http``, ``rtsp``, ``redis``, ``file``, ``demo``, or the scheme of a plug-in. ``http`` is
            settled by content type when it is opened, and may turn out to be HLS.
        scheme: Lower case; empty for a bare Redis key.
    """

    stream_ref: str
    kind: str
    scheme: str

    @property
    def can_go_back(self) -> bool:
        """Whether it can be read again from a named frame on, so that every reader needs its own place in it."""
        return self.kind in {"redis", "file"}

    @property
    def is_bare_key(self) -> bool:
        """Whether it is a key on the configured Redis."""
        return self.kind == "redis" and not self.scheme

    @property
    def default_policy(self) -> Policy:
        """What happens to frames while the model is busy, unless the job says.

        Sources that end and Redis wait. Whether an HLS address is a recording is only known once it is open, so
        it gets ``latest`` here, and a subscription to one that turns out to end waits all the same.
        """
        return Policy.BLOCK if self.can_go_back else Policy.LATEST


def classify(stream_ref: str, plugin_schemes: Collection[str] = ()) -> Reference:
    """Tell the kind of ``stream_ref`` by its form.

    Args:
        stream_ref: What the user gave.
        plugin_schemes: Lower-case schemes that entry points provide; they win over nothing that is built in.

    Raises:
        InvalidInput: It is empty, too long, malformed, or of a kind that this build does not have. Messages never
            repeat the reference, which may hold credentials.
    """
    _check_text(stream_ref)
    found = _SCHEME.match(stream_ref)
    scheme = found[1].lower() if found else ""
    if scheme in _OF_A_LATER_RELEASE and scheme not in plugin_schemes:
        raise InvalidInput(
            f"stream_ref begins with {scheme}: and this build does not have {_OF_A_LATER_RELEASE[scheme]} yet",
            detail={"scheme": scheme},
        )
    if scheme in {"http", "https"}:
        is_playlist = _url_path(stream_ref, scheme).lower().endswith(".m3u8")
        return Reference(stream_ref, "hls" if is_playlist else "http", scheme)
    if scheme in {"rtsp", "rtsps"}:
        _url_path(stream_ref, scheme)
        return Reference(stream_ref, "rtsp", scheme)
    if scheme in {"redis", "rediss"}:
        _url_path(stream_ref, scheme)
        return Reference(stream_ref, "redis", scheme)
    if scheme in {"file", "demo"}:
        return Reference(stream_ref, scheme, scheme)
    if scheme in plugin_schemes:
        return Reference(stream_ref, scheme, scheme)
    return _bare_key(stream_ref, scheme)


def _check_text(stream_ref: str) -> None:
    if not stream_ref or not stream_ref.strip():
        raise InvalidInput("stream_ref cannot be empty")
    if len(stream_ref) > MAX_REFERENCE_CHARS:
        raise InvalidInput(f"stream_ref has {len(stream_ref)} characters; at most {MAX_REFERENCE_CHARS} are allowed")
    if not stream_ref.isascii() and any("\ud800" <= letter <= "\udfff" for letter in stream_ref):
        raise InvalidInput("stream_ref holds half a surrogate pair, which is no character; write it as UTF-8")
    is_file = stream_ref[:5].lower() == "file:"  # names of files may hold spaces
    if _UNUSABLE.search(stream_ref.replace(" ", "_") if is_file else stream_ref):
        raise InvalidInput("stream_ref holds a space or a control character; encode it as %20 and the like")


def _url_path(stream_ref: str, scheme: str) -> str:
    """Return the path of a URL that must have a host."""
    if "\\" in stream_ref:
        raise InvalidInput("stream_ref holds a backslash, which programs read differently; write %5C")
    try:
        parts = urlsplit(stream_ref)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"stream_ref is not a valid {scheme} address: its host or port cannot be read") from error
    if not host:
        raise InvalidInput(f"stream_ref is not a valid {scheme} address: write {scheme}://host/...")
    return parts.path


def _bare_key(stream_ref: str, scheme: str) -> Reference:
    if scheme and (scheme in _RESERVED_WORDS or stream_ref[len(scheme) :].startswith("://")):
        raise InvalidInput(
            f"stream_ref begins with {scheme}: which is not a supported kind of video; supported are http(s), rtsp(s), "
            "redis(s), file:, demo: and the key of a Redis stream",
            detail={"scheme": scheme},
        )
    if not _KEY.match(stream_ref):
        raise InvalidInput(
            "stream_ref is neither an address nor a Redis key; a key has letters, digits and the characters _ - . :"
        )
    check_key(stream_ref)
    return Reference(stream_ref, "redis", "")


def check_key(key: str) -> None:
    """Refuse the keys of the service itself.

    Raises:
        InvalidInput: ``key`` begins with ``freeroam:``.
    """
    if key.lower().startswith(OWN_KEY_PREFIX):
        raise InvalidInput(f"Redis keys that begin with {OWN_KEY_PREFIX} belong to the service and are not videos")
