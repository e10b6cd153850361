"""An RTSP server of test pictures, run by the system's Python, which has GStreamer's bindings.

Prints its port once it listens. ``--login`` asks for user ``me`` with password ``s3cret:/ü``.
"""

from __future__ import annotations

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURES = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
H264 = f"{PICTURES} ! x264enc tune=zerolatency key-int-max=25 bframes=0 speed-preset=ultrafast"
B_FRAMES = "x264enc key-int-max=50 bframes=2 b-adapt=false rc-lookahead=5 sync-lookahead=0 ! video/x-h264,profile=high"
SNOW = "videotestsrc is-live=true pattern=snow ! video/x-raw,format=I420,width=640,height=360,framerate=25/1"
FAT = f"{SNOW} ! x264enc tune=zerolatency bitrate=6000 key-int-max=25 speed-preset=ultrafast"
MOUNTS = {
    "/h264": f"( {H264} ! rtph264pay name=pay0 pt=96 config-interval=-1 )",
    "/fat": f"( {FAT} ! rtph264pay name=pay0 pt=96 )",
    "/rare-keys": f"( {H264.replace('key-int-max=25', 'key-int-max=100')} ! rtph264pay name=pay0 pt=96 )",
    "/b-frames": f"( {PICTURES} ! {B_FRAMES} ! rtph264pay name=pay0 pt=96 )",
    "/h265": f"( {PICTURES} ! x265enc tune=zerolatency key-int-max=25 ! rtph265pay name=pay0 pt=96 )",
    "/vp8": f"( {PICTURES} ! vp8enc deadline=1 keyframe-max-dist=25 ! rtpvp8pay name=pay0 pt=97 )",
    "/mjpeg": f"( {PICTURES} ! jpegenc ! rtpjpegpay name=pay0 pt=26 )",
    "/both": f"( audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8 {H264} ! rtph264pay name=pay1 pt=96 )",
    "/audio": "( audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8 )",
    "/ends": f"( {H264.replace('videotestsrc', 'videotestsrc num-buffers=60')} ! rtph264pay name=pay0 pt=96 )",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--login", choices=["none", "basic", "digest"], default="none")
    asked = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(asked.port)
    for path, pipeline in MOUNTS.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(pipeline)
        factory.set_shared(True)
        if asked.login != "none":
            rights = GstRtspServer.RTSPPermissions()
            rights.add_permission_for_role("user", "media.factory.access", True)
            rights.add_permission_for_role("user", "media.factory.construct", True)
            factory.set_permissions(rights)
        server.get_mount_points().add_factory(path, factory)
    if asked.login != "none":
        server.set_auth(_auth(asked.login))
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _auth(way: str):
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    if way == "basic":
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic("me", "s3cret:/ü"), token)
    else:
        auth.set_supported_methods(2)
        auth.add_digest("me", "s3cret:/ü", token)
    return auth


main()
