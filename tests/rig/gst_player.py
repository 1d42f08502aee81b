"""A GStreamer player of live video: says on standard output `picture N` for each that is due.

It starts to play at once and goes on, as an application that shows live video does. gst-launch-1.0 goes back to PAUSED when
a queue is empty at the start; GStreamer 1.26 (Debian 13) sometimes plays nothing for ever after that, with whatever
server. It ends with exit code 1 and the reason on standard error when the stream ends, and when its standard input is
closed.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402


def main():
    Gst.init(None)
    pipeline = Gst.parse_launch("uridecodebin3 name=source caps=video/x-h264 ! h264parse "
                                "! fakesink name=sink signal-handoffs=true sync=true")
    pipeline.get_by_name("source").set_property("uri", sys.argv[1])
    loop = GLib.MainLoop()
    count = 0

    def on_picture(*_):
        nonlocal count
        count += 1
        print(f"picture {count}", flush=True)

    def on_end(_bus, message):
        print(message.parse_error() if message.type == Gst.MessageType.ERROR else "end of stream", file=sys.stderr)
        loop.quit()

    def wait_for_end():
        sys.stdin.read()
        GLib.idle_add(loop.quit)

    pipeline.get_by_name("sink").connect("handoff", on_picture)
    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message::error", on_end)
    bus.connect("message::eos", on_end)
    threading.Thread(target=wait_for_end, daemon=True).start()
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)
    sys.exit(1)


main()
