#!/bin/sh
# The real servers that integration tests start on loopback: Redis, FFmpeg, PostgreSQL, GStreamer's RTSP server with its Python bindings.
set -u
packages="redis-server ffmpeg postgresql python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"

missing() {
    command -v redis-server >/dev/null 2>&1 || echo redis-server
    command -v ffmpeg >/dev/null 2>&1 || echo ffmpeg
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql
    /usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0"); from gi.repository import GstRtspServer, Gst; Gst.init(None); assert all(Gst.ElementFactory.find(n) for n in ("x264enc", "rtph264pay", "videotestsrc"))' >/dev/null 2>&1 ||
        echo gstreamer-rtsp-server-with-python-bindings
}

absent=$(missing)
[ -z "$absent" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing servers for the tests: $absent"
    # shellcheck disable=SC2086
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >/dev/null
    absent=$(missing)
    [ -z "$absent" ] && exit 0
fi
echo "Missing for the integration tests:" $absent
echo "On Debian or Ubuntu: sudo apt-get install $packages"
[ "${CI:-}" = true ] && exit 1
echo "Their tests are skipped."
exit 0
