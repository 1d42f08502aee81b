"""A GStreamer RTSP server on 127.0.0.1 that serves clips from files.

Every session gets a pipeline of its own and hears the clip from its first access unit to its last,
in real time; then comes RTCP BYE. The server says on standard output, one line each:

    port N          once, when it accepts connections
    play PATH       a session began to play
    teardown PATH   a session was torn down or its connection ended

It ends when its standard input is closed.
"""

import argparse
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

# What the payload format is called in GStreamer, and the caps that its SDP needs at the least.
VIDEO = {
    "h264": ("rtph264pay", "H264", ",packetization-mode=(string)1"),
    "h265": ("rtph265pay", "H265", ""),
    "vp8": ("rtpvp8pay", "VP8", ""),
    "mjpeg": ("jpegparse ! rtpjpegpay", "JPEG", ""),
}
AUDIO = {
    "none": None,
    "aac": "rtpmp4gpay",
    "opus": "rtpopuspay",
    # 20 ms in a packet, as cameras send it.
    "pcma": "rtppcmapay max-ptime=20000000",
    "pcmu": "rtppcmupay max-ptime=20000000",
}
DEMUX = {"mp4": "qtdemux", "mov": "qtdemux", "mkv": "matroskademux"}


def say(line):
    print(line, flush=True)


def launch_line(file, video, audio, sets):
    """The pipeline of one session. `sets` says where parameter sets are: `sdp`, `band`, `both`, or
    `clip` for in band where the clip has them."""
    demux = DEMUX[file.rsplit(".", 1)[1]]
    pay, encoding, caps = VIDEO[video]
    line = f"filesrc location={file} ! {demux} name=d  d.video_0 ! queue ! {pay}"
    if video in ("h264", "h265"):
        # -1 repeats them before every keyframe, 0 never.
        line += " config-interval=%d" % (-1 if sets in ("band", "both") else 0)
    # RFC 3551 section 5 fixes the type of JPEG.
    line += " pt=26" if video == "mjpeg" else " pt=96"
    if sets in ("band", "clip"):
        # The payloader puts the sets into its caps, and so into the SDP; caps without them replace those.
        line += (
            " ! capssetter name=pay0 join=false replace=true caps=application/x-rtp,media=video,"
            f"payload=96,clock-rate=90000,encoding-name={encoding}{caps}"
        )
    else:
        line += " name=pay0"
    if AUDIO[audio]:
        # RFC 3551 section 6 fixes the types of G.711.
        pt = {"pcma": 8, "pcmu": 0}.get(audio, 97)
        line += f"  d.audio_0 ! queue ! {AUDIO[audio]} name=pay1 pt={pt}"
    return f"( {line} )"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mount", nargs=5, action="append", required=True,
                        metavar=("PATH", "FILE", "VIDEO", "AUDIO", "SETS"))
    parser.add_argument("--auth", choices=("none", "basic", "digest"), default="none")
    parser.add_argument("--user", default="user")
    parser.add_argument("--password", default="password")
    parser.add_argument("--once", action="store_true",
                        help="a path is gone (404) as soon as one session plays it")
    parser.add_argument("--udp", action="store_true", help="nothing but unicast over UDP")
    parser.add_argument("--port", type=int, default=0, help="0 is any free one")
    parser.add_argument("--tls", metavar="PEM", help="certificate and key: RTSPS")
    args = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(args.port))
    mounts = server.get_mount_points()

    if args.auth != "none":
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        if args.auth == "basic":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(args.user, args.password), token)
        else:
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(args.user, args.password, token)
        server.set_auth(auth)

    if args.tls:
        auth = server.get_auth() or GstRtspServer.RTSPAuth()
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(args.tls))
        server.set_auth(auth)

    for path, file, video, audio, sets in args.mount:
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(launch_line(file, video, audio, sets))
        factory.set_shared(False)
        if args.udp:
            factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
        if args.auth != "none":
            # add_role() takes C varargs, so the permissions are built as a structure.
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_role("viewer")
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        mounts.add_factory("/" + path, factory)

    def on_play(_client, context):
        path = context.uri.abspath.strip("/").split("/")[0]
        say(f"play {path}")
        if args.once:
            mounts.remove_factory("/" + path)

    def on_teardown(_client, context):
        say("teardown " + context.uri.abspath.strip("/").split("/")[0])

    def on_client(_server, client):
        client.connect("play-request", on_play)
        client.connect("teardown-request", on_teardown)

    server.connect("client-connected", on_client)
    server.attach(None)
    say(f"port {server.get_bound_port()}")

    loop = GLib.MainLoop()

    def wait_for_end():
        sys.stdin.read()
        GLib.idle_add(loop.quit)

    threading.Thread(target=wait_for_end, daemon=True).start()
    loop.run()


main()
