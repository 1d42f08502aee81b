"""Viewers of live streams that look at nothing: what they cost the recorder is measured, not they.

    viewers.py ADDRESS:PORT KIND STREAMS LOGIN

KIND is `ws`, `hls` (low latency: blocked reloads, each part) or `mjpeg`; one viewer per stream, each from an address
of its own in 127.0.0.0/8, as requests are counted by address. LOGIN is what follows `Authorization: Basic`. On SIGTERM
one line of JSON says how many pictures came (parts, with HLS), their bytes, and how many packets were skipped.
"""

import asyncio
import json
import re
import signal
import sys

ADDRESS, KIND, STREAMS, LOGIN = sys.argv[1:]
HOST, PORT = ADDRESS.split(":")
# Half a second each: a camera has a keyframe every two seconds.
TRIES = 20
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
seen = {"pictures": 0, "bytes": 0, "skipped": 0}


class NoPictureYet(Exception):
    """503: the stream is only beginning."""


class Connection:
    async def open(self, viewer):
        self.reader, self.writer = await asyncio.open_connection(
            HOST, int(PORT), local_addr=(f"127.0.1.{viewer + 1}", 0), limit=1 << 20)
        return self

    async def head(self, path, more=""):
        self.writer.write((f"GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nAuthorization: Basic {LOGIN}\r\n"
                           f"{more}\r\n").encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("HTTP/1.1 503"):
            raise NoPictureYet(head)
        return head

    async def get(self, path):
        head = await self.head(path)
        if not head.startswith("HTTP/1.1 200"):
            raise ValueError(f"{path}: {head}")
        length = re.search(r"^content-length: (\d+)\r$", head, re.M | re.I)
        if length:
            return await self.reader.readexactly(int(length[1]))
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body


async def watch_ws(connection, base):
    upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    head = await connection.head(f"{base}/live", upgrade)
    if not head.startswith("HTTP/1.1 101"):
        raise ValueError(head)
    while True:
        kind, size = await connection.reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await connection.reader.readexactly(2 if size == 126 else 8), "big")
        payload = await connection.reader.readexactly(size)
        if kind & 15 == 2:
            seen["pictures"] += 1
            seen["bytes"] += size
        elif kind & 15 == 1:
            seen["skipped"] += json.loads(payload).get("skipped", 0)
        elif kind & 15 == 8:
            raise ValueError(f"closed: {payload}")


async def watch_hls(connection, base):
    fetched, query = set(), ""
    while True:
        text = (await connection.get(f"{base}/hls/playlist.m3u8{query}")).decode()
        parts = re.findall(r'^#EXT-X-PART:.*URI="([^"]+)"', text, re.M)
        for part in [part for part in parts if part not in fetched] if fetched else parts[-1:]:
            seen["bytes"] += len(await connection.get(f"{base}/hls/{part}"))
            seen["pictures"] += 1
        fetched.update(parts)
        first = int(re.search(r"^#EXT-X-MEDIA-SEQUENCE:(\d+)", text, re.M)[1])
        complete = re.findall(r"^[^#\n].*$", text, re.M)
        is_open = text.rsplit(complete[-1], 1)[1].count("#EXT-X-PART:") if complete else len(parts)
        query = f"?_HLS_msn={first + len(complete)}&_HLS_part={is_open}"


async def watch_mjpeg(connection, base):
    head = await connection.head(f"{base}/mjpeg")
    if not head.startswith("HTTP/1.1 200"):
        raise ValueError(head)
    while True:
        head = (await connection.reader.readuntil(b"\r\n\r\n")).decode()
        size = int(re.search(r"^content-length: (\d+)\r$", head, re.M | re.I)[1])
        await connection.reader.readexactly(size)
        seen["pictures"] += 1
        seen["bytes"] += size


async def main():
    watch = {"ws": watch_ws, "hls": watch_hls, "mjpeg": watch_mjpeg}[KIND]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def view(stream):
        for _ in range(TRIES):
            try:
                await watch(await Connection().open(stream), f"/api/v1/streaming/{stream}")
            except NoPictureYet:
                await asyncio.sleep(0.5)
        raise ValueError(f"stream {stream} has no picture")

    viewers = [asyncio.create_task(view(stream)) for stream in range(int(STREAMS))]
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *viewers], return_when=asyncio.FIRST_COMPLETED)
    if stopped not in done:
        done.pop().result()
    print(json.dumps(seen), flush=True)


asyncio.run(main())
