"""Recording by LightNVR, by the floor and by other recorders, fed by the same camera farm: CPU, memory, losses.

Cameras are 1920x1080 at 15 fps and 4 Mbit/s over RTSP and TCP. Nobody watches, but with `ws`, `hls` and `mjpeg`: the
recorder with one viewer per stream of that kind; `connected` is the recorder with streams that it does not record;
`small` has 8 streams of 2 Mbit/s and one viewer in a control group of 96 MB and a quarter of a core. For each number of
cameras the tools take turns (A B A B), a window each after a warm-up; then come `requests` (`requests.py`: what wrk
gets out of the API) and the recorder while it has nothing to do. Prints a table and writes target/bench/latest.json. `floor.rs` says what the floor is.
"""

import argparse
import base64
import json
import math
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from cgroup import Limits

TOP = pathlib.Path(__file__).resolve().parents[2]
OUT = TOP / "target" / "bench"
BINARY = TOP / "target" / "release" / "lightnvr"
EXAMPLES = TOP / "target" / "release" / "examples"

FPS = 15
CLIP_SECONDS = 10
PASSWORD = "bench-password"
# With fewer or more cameras they are left out. Above these numbers the others would only measure swapping.
STREAMS_OF = {"ours": (1, 512), "floor": (1, 512), "connected": (16, 64), "ws": (16, 16), "hls": (16, 16),
              "mjpeg": (1, 1), "small": (0, 0), "requests": (0, 0), "ffmpeg": (1, 64), "gstreamer": (1, 64), "motion": (1, 4)}
# What the project promises, for the verdict at the end.
CPU_MAX = 0.06
FLOOR_RATIO_MAX = 1.3
PEAK_MB_MAX = {1: 12.0, 16: 27.0}
WRITTEN_MAX = 1.02
IDLE_MB_MAX = 8.0
IDLE_CPU_S_MAX = 0.02
# The small machine.
SMALL_MEMORY = 96 << 20
SMALL_CORES = 0.25
SMALL_STREAMS = 8
SMALL_RATE = "2M"
MB = 1e6


def make_clip(rate):
    clip = OUT / f"farm-1080p15-{rate}.h264"
    if not clip.exists():
        source = f"testsrc2=s=1920x1080:r={FPS},noise=alls=20:allf=t,format=yuv420p"
        part = OUT / "farm-part.h264"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", source, "-t",
                        str(CLIP_SECONDS), "-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", "30",
                        "-sc_threshold", "0", "-b:v", rate, "-minrate", rate, "-maxrate", rate, "-bufsize", rate,
                        "-x264-params", "nal-hrd=cbr", "-f", "h264", part], check=True)
        part.rename(clip)
    return clip


class Farm:
    """The cameras. All of them are one process."""

    def __init__(self, rate="4M"):
        clip = make_clip(rate)
        self.media_bytes_per_picture = clip.stat().st_size / (FPS * CLIP_SECONDS)
        self.process = subprocess.Popen([EXAMPLES / "camera_farm", clip, str(FPS)],
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])
        self.url = f"rtsp://127.0.0.1:{self.port}/camera"

    def counts(self):
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            answer = connection.recv(4096).decode()
        line = re.search(r"^Farm: (.*)\r$", answer, re.M)[1]
        return {name: int(value) for name, value in (pair.split("=") for pair in line.split())}

    def cpu_s(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def stop(self):
        self.process.kill()
        self.process.wait()


class Tool:
    """A recorder at work in `home`."""

    def __init__(self, home, farm, streams):
        self.home, self.farm, self.streams = home, farm, streams
        self.processes = []
        self.start()

    def run(self, command, **how):
        log = open(self.home / "log", "a")
        how = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | how
        process = subprocess.Popen([str(word) for word in command], cwd=self.home, **how)
        log.close()
        self.processes.append(process)
        return process

    def urls(self):
        return [f"{self.farm.url}/{n}" for n in range(self.streams)]

    def begin(self):
        """All cameras are connected."""

    def proc(self, name):
        return [pathlib.Path(f"/proc/{process.pid}/{name}") for process in self.processes]

    def cpu_s(self):
        """User and system time of all threads: by the nanosecond, as the clock ticks of `stat` are too coarse."""
        tasks = (task for tasks in self.proc("task") for task in tasks.iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def user_system_s(self):
        # The command's name may hold blanks and brackets: fields are counted after the last one.
        stats = [path.read_text().rsplit(")", 1)[1].split() for path in self.proc("stat")]
        ticks = os.sysconf("SC_CLK_TCK")
        return [sum(int(stat[at]) for stat in stats) / ticks for at in (11, 12)]

    def memory_mb(self, field):
        texts = [path.read_text() for path in self.proc("status")]
        return sum(int(re.search(rf"^{field}:\s+(\d+) kB$", text, re.M)[1]) for text in texts) * 1024 / MB

    def forget_peak(self):
        """From now on VmHWM is the peak since now (proc_pid_clear_refs(5), value 5)."""
        for path in self.proc("clear_refs"):
            path.write_text("5")

    def written(self):
        texts = [path.read_text() for path in self.proc("io")]
        return sum(int(re.search(r"^write_bytes: (\d+)$", text, re.M)[1]) for text in texts)

    def stop(self, number=signal.SIGTERM):
        for process in self.processes:
            process.send_signal(number)
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def lost_in_files(self):
        """Pictures that are missing between those in the files. Others need two seconds to settle their clock."""
        return sum(missing_pictures(path, 2 * FPS) for path in self.home.rglob("*.mp4"))


class Ours(Tool):
    RECORD = True

    def start(self):
        password = self.home / "password"
        password.write_text(PASSWORD)
        began = time.monotonic()
        process = self.run([BINARY, "--data-dir", self.home / "data", "--listen", "127.0.0.1:0",
                            "--admin-password-file", password, "--log-level", "warn"],
                           stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        self.start_up_s = time.monotonic() - began
        self.url = re.fullmatch(r"LightNVR \S+ ready: (http://\S+)/\n", line)[1]
        if self.streams:
            self.call("PUT", "/api/v1/settings", {"max_streams": 512})
        for n, url in enumerate(self.urls()):
            self.call("POST", "/api/v1/streams", {"name": f"camera {n}", "url": url, "record": self.RECORD})

    def lost_in_files(self):
        return sum(missing_pictures(path, 0) for path in self.home.rglob("*.mp4"))

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method)
        login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", "Basic " + login)
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    raise
                time.sleep(float(error.headers["Retry-After"]))


class Connected(Ours):
    RECORD = False


class Watched(Ours):
    """With one viewer per stream, each a client that takes all it gets."""

    def watched(self):
        """So many of the streams, from the first on."""
        return self.streams

    def begin(self):
        login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        words = [sys.executable, TOP / "tests" / "bench" / "viewers.py", self.url.removeprefix("http://"), self.KIND,
                 self.watched(), login]
        log = open(self.home / "log", "a")
        self.viewers = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=log, text=True)
        self.began = time.monotonic()

    def viewed(self):
        """What the viewers got in all, ends them."""
        seconds = time.monotonic() - self.began
        self.viewers.terminate()
        answer = self.viewers.communicate(timeout=20)[0]
        if not answer:
            sys.exit("the viewers ended early: " + (self.home / "log").read_text())
        seen = json.loads(answer)
        if not seen["pictures"]:
            sys.exit(f"{self.KIND}: the viewers saw nothing")
        return {"per_viewer_and_second": round(seen["pictures"] / self.watched() / seconds, 1),
                "bytes_each": seen["bytes"] // max(seen["pictures"], 1), "packets_skipped": seen["skipped"]}

    def stop(self, number=signal.SIGTERM):
        self.viewers.kill()
        super().stop(number)


class WebSocket(Watched):
    KIND = "ws"


class Small(WebSocket):
    """On a small machine, as a control group makes one, with one viewer in all."""

    def __init__(self, home, farm, streams, limits):
        self.limits = limits
        super().__init__(home, farm, streams)

    def run(self, command, **how):
        process = super().run(command, **how)
        self.limits.add(process.pid)
        return process

    def watched(self):
        return 1


class Hls(Watched):
    KIND = "hls"


class Mjpeg(Watched):
    KIND = "mjpeg"


class Floor(Tool):
    def start(self):
        self.run([EXAMPLES / "floor", self.farm.url, self.streams, self.home])

    def lost_in_files(self):
        # Each file is a stream of TCP: what the farm sent is there.
        return 0


class Ffmpeg(Tool):
    def start(self):
        for n, url in enumerate(self.urls()):
            self.run(["ffmpeg", "-v", "error", "-nostdin", "-rtsp_transport", "tcp", "-i", url, "-c", "copy", "-f",
                      "segment", "-segment_time", "900", "-segment_format", "mp4", f"{n}-%03d.mp4"])


class GStreamer(Tool):
    def start(self):
        words = []
        for n, url in enumerate(self.urls()):
            words += ["rtspsrc", f"location={url}", "protocols=tcp", "latency=0", "!", "rtph264depay", "!",
                      "h264parse", "!", "splitmuxsink", f"location={n}-%03d.mp4", "max-size-time=900000000000"]
        self.run(["gst-launch-1.0", "-q", "-e"] + words)

    def stop(self, number=signal.SIGINT):
        super().stop(number)


class Motion(Tool):
    def start(self):
        cameras = ""
        for n, url in enumerate(self.urls()):
            file = self.home / f"camera{n}.conf"
            file.write_text(f"camera_id {n + 1}\nnetcam_url {url}\nwidth 1920\nheight 1080\nframerate {FPS}\n")
            cameras += f"camera {file}\n"
        main = self.home / "motion.conf"
        main.write_text(f"daemon off\nlog_level 4\nwebcontrol_port 0\ntarget_dir {self.home}\n"
                        "emulate_motion on\npicture_output off\nmovie_output on\nmovie_passthrough on\n"
                        "movie_codec mp4\n" + cameras)
        self.run(["motion", "-n", "-c", main])


TOOLS = {"ours": Ours, "floor": Floor, "connected": Connected, "ws": WebSocket, "hls": Hls, "mjpeg": Mjpeg,
         "small": Small, "ffmpeg": Ffmpeg, "gstreamer": GStreamer, "motion": Motion}


def boxes(data, start, end):
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            size, body = struct.unpack_from(">Q", data, body)[0], body + 8
        elif size == 0:
            size = end - start
        if size < 8:
            return
        yield kind, body, min(start + size, end)
        start += size


def find(data, start, end, *path):
    for kind, body, stop in boxes(data, start, end):
        if kind == path[0]:
            yield from [(body, stop)] if len(path) == 1 else find(data, body, stop, *path[1:])


def durations(data):
    """Time scale of the first track, and how long each of its samples lasts."""
    end = len(data)
    for body, _ in find(data, 0, end, b"moov", b"trak", b"mdia", b"mdhd"):
        scale = struct.unpack_from(">I", data, body + (20 if data[body] else 12))[0]
        break
    else:
        return 1, []
    found = []
    for body, _ in find(data, 0, end, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        count = struct.unpack_from(">I", data, body + 4)[0]
        for n in range(count):
            samples, duration = struct.unpack_from(">II", data, body + 8 + 8 * n)
            found += [duration] * samples
        break
    for start, stop in find(data, 0, end, b"moof", b"traf"):
        (head, _), = find(data, start, stop, b"tfhd")
        flags = struct.unpack_from(">I", data, head)[0]
        at = head + 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)
        usual = struct.unpack_from(">I", data, at)[0] if flags & 8 else 0
        for run, _ in find(data, start, stop, b"trun"):
            flags, count = struct.unpack_from(">II", data, run)
            at = run + 8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1)
            step = 4 * (flags >> 8 & 0xf).bit_count()
            for n in range(count):
                found.append(struct.unpack_from(">I", data, at + n * step)[0] if flags & 0x100 else usual)
    return scale, found


def missing_pictures(path, first):
    with open(path, "rb") as file:
        data = file.read()
    scale, found = durations(data)
    # The last sample's duration is a guess of the muxer.
    return sum(max(round(duration * FPS / scale) - 1, 0) for duration in found[first:-1])


def measure(name, streams, farm, args, *more):
    home = pathlib.Path(tempfile.mkdtemp(dir=args.on or OUT))
    try:
        tool = TOOLS[name](home, farm, streams, *more)
        try:
            deadline = time.monotonic() + 60
            while farm.counts()["sessions"] < streams:
                if time.monotonic() > deadline:
                    sys.exit(f"{name}: {farm.counts()['sessions']} of {streams} sessions: "
                             + (home / "log").read_text())
                time.sleep(0.2)
            tool.begin()
            time.sleep(args.warm_up)
            counts, written, cpu, parts = farm.counts(), tool.written(), tool.cpu_s(), tool.user_system_s()
            farm_cpu, peak_before = farm.cpu_s(), tool.memory_mb("VmHWM")
            tool.forget_peak()
            began = time.monotonic()
            time.sleep(args.seconds)
            seconds = time.monotonic() - began
            cpu, farm_cpu = tool.cpu_s() - cpu, farm.cpu_s() - farm_cpu
            parts = [now - then for now, then in zip(tool.user_system_s(), parts)]
            written, peak = tool.written() - written, tool.memory_mb("VmHWM")
            now = farm.counts()
            viewed = tool.viewed() if isinstance(tool, Watched) else None
        finally:
            tool.stop()
        pictures = now["pictures"] - counts["pictures"]
        expected = streams * FPS * seconds
        figures = {
            "tool": name,
            "streams": streams,
            "seconds": round(seconds, 1),
            "cpu_s_per_stream_minute": round(cpu / streams / seconds * 60, 4),
            "user_part": round(parts[0] / max(sum(parts), 0.001), 2),
            "peak_rss_mb": round(peak, 1),
            # Also of the start, and of what made the streams: with ours 7 MiB for the hash of a password.
            "peak_rss_mb_before": round(peak_before, 1),
            "written_over_media": round(written / (pictures * farm.media_bytes_per_picture), 3),
            # What the farm could not send, because nobody read it, and what is not in the files.
            "pictures_lost": now["skipped"] - counts["skipped"] + tool.lost_in_files(),
            "farm_on_time": round(pictures / expected, 3),
            "farm_cpu_s_per_stream_minute": round(farm_cpu / streams / seconds * 60, 4),
        }
        if name == "ours":
            figures["start_up_s"] = round(tool.start_up_s, 3)
        if viewed:
            figures["viewed"] = viewed
        return figures
    finally:
        shutil.rmtree(home)


def measure_idle(args):
    """The recorder without a stream."""
    home = pathlib.Path(tempfile.mkdtemp(dir=args.on or OUT))
    try:
        recorder = Ours(home, None, 0)
        try:
            time.sleep(args.warm_up)
            cpu, began = recorder.cpu_s(), time.monotonic()
            time.sleep(args.seconds)
            cpu = (recorder.cpu_s() - cpu) / (time.monotonic() - began) * 60
            return {"rss_mb": round(recorder.memory_mb("VmRSS"), 1), "cpu_s_per_minute": round(cpu, 4),
                    "start_up_s": round(recorder.start_up_s, 3)}
        finally:
            recorder.stop()
    finally:
        shutil.rmtree(home)


def measure_small(args):
    """What a board of long ago may have left for it."""
    farm = Farm(SMALL_RATE)
    try:
        with Limits("lightnvr-bench", SMALL_MEMORY, SMALL_CORES) as limits:
            row = mean([measure("small", SMALL_STREAMS, farm, args, limits)])
            row["throttled"] = round(limits.throttled(), 3)
            return row
    finally:
        farm.stop()


def measure_requests(args):
    """Of requests per second, with 1 and 32 connections."""
    home = tempfile.mkdtemp(dir=args.on or OUT)
    try:
        words = ["unshare", "--map-root-user", "--net", sys.executable, TOP / "tests" / "bench" / "requests.py",
                 BINARY, home, math.ceil(args.seconds)]
        done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit("the requests were not answered")
        return json.loads(done.stdout)
    finally:
        shutil.rmtree(home)


def mean(rows):
    """One row of several windows: the mean of CPU, the worst of all else."""
    row = dict(rows[-1])
    row["windows"] = len(rows)
    cpu = [each["cpu_s_per_stream_minute"] for each in rows]
    row["cpu_s_per_stream_minute"] = round(sum(cpu) / len(cpu), 4)
    row["cpu_s_of_windows"] = cpu
    for name in ("peak_rss_mb", "peak_rss_mb_before", "written_over_media", "pictures_lost"):
        row[name] = max(each[name] for each in rows)
    row["farm_on_time"] = min(each["farm_on_time"] for each in rows)
    return row


COLUMNS = [("tool", 10), ("streams", 8), ("cpu_s_per_stream_minute", 24), ("user_part", 10), ("peak_rss_mb", 12),
           ("written_over_media", 19), ("pictures_lost", 14), ("farm_on_time", 13)]


def print_row(row, alone):
    print("".join(f"{row[name]:>{width}}" for name, width in COLUMNS), flush=True)
    if "viewed" in row:
        viewed = row["viewed"]
        row["cpu_s_per_viewer_minute"] = round(row["cpu_s_per_stream_minute"] - alone, 4) if alone else None
        print(f"{'':10}{viewed['per_viewer_and_second']} a second for each viewer, {viewed['bytes_each']} bytes each, "
              f"{viewed['packets_skipped']} packets skipped")
        if alone:
            per_picture = row["cpu_s_per_viewer_minute"] / viewed["per_viewer_and_second"] / 60
            print(f"{'':10}CPU s per viewer-minute, less what recording costs: {row['cpu_s_per_viewer_minute']}; "
                  f"per picture or part {per_picture * 1000:.2f} ms")


def verdicts(rows, idle):
    """What is over a limit, in words."""
    ours = {row["streams"]: row for row in rows if row["tool"] == "ours"}
    floor = {row["streams"]: row["cpu_s_per_stream_minute"] for row in rows if row["tool"] == "floor"}
    connected = {row["streams"]: row["cpu_s_per_stream_minute"] for row in rows if row["tool"] == "connected"}
    found = []

    def check(what, value, limit):
        if value > limit:
            found.append(f"{what}: {value}, limit {limit}")

    for streams, row in ours.items():
        cpu = row["cpu_s_per_stream_minute"]
        if streams in (16, 64):
            check(f"CPU s per stream-minute at {streams} streams", cpu, CPU_MAX)
            if streams in floor:
                check(f"CPU over that of the floor at {streams} streams", round(cpu / floor[streams], 2),
                      FLOOR_RATIO_MAX)
        if streams in PEAK_MB_MAX:
            check(f"peak RSS in MB at {streams} streams", row["peak_rss_mb"], PEAK_MB_MAX[streams])
        check(f"bytes written over media at {streams} streams", row["written_over_media"], WRITTEN_MAX)
        check(f"pictures lost at {streams} streams", row["pictures_lost"], 0)
    for streams in connected.keys() & floor.keys():
        check(f"CPU s per stream-minute at {streams} streams without recording", connected[streams], floor[streams])
    for row in rows:
        if "viewed" in row:
            check(f"pictures lost while {row['tool']} watch", row["pictures_lost"], 0)
    if idle:
        check("RSS in MB when idle", idle["rss_mb"], IDLE_MB_MAX)
        check("CPU s a minute when idle", idle["cpu_s_per_minute"], IDLE_CPU_S_MAX)
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="length of a window")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds before a window")
    parser.add_argument("--rounds", type=int, default=2, help="windows per tool")
    parser.add_argument("--streams", default="1,4,16,64,256", help="numbers of cameras")
    parser.add_argument("--tools", default=",".join(STREAMS_OF), help="which of " + ", ".join(STREAMS_OF))
    parser.add_argument("--no-idle", action="store_true", help="leave out the recorder without streams")
    parser.add_argument("--on", help="directory for the recordings, else target/bench")
    return parser.parse_args()


def main():
    args = arguments()
    OUT.mkdir(parents=True, exist_ok=True)
    farm = Farm()
    rows, idle, requests = [], None, None
    try:
        print("".join(f"{name:>{width}}" for name, width in COLUMNS))
        for streams in map(int, args.streams.split(",")):
            of = {name: range(STREAMS_OF[name][0], STREAMS_OF[name][1] + 1) for name in args.tools.split(",")}
            names = [name for name in of if streams in of[name]]
            windows = {name: [] for name in names}
            for _ in range(args.rounds):
                for name in names:
                    windows[name].append(measure(name, streams, farm, args))
            found = {name: mean(windows[name]) for name in names}
            for row in found.values():
                print_row(row, found.get("ours", {}).get("cpu_s_per_stream_minute"))
            rows += found.values()
        if "small" in args.tools.split(","):
            farm.stop()
            rows.append(measure_small(args))
            print_row(rows[-1], None)
            print(f"{'':10}throttled in {rows[-1]['throttled']:.1%} of all tenths of a second")
        if "requests" in args.tools.split(","):
            requests = measure_requests(args)
            for row in requests:
                print("requests: " + ", ".join(f"{name} {value}" for name, value in row.items()))
        if not args.no_idle:
            idle = measure_idle(args)
            print("idle: " + ", ".join(f"{name} {value}" for name, value in idle.items()))
    finally:
        farm.stop()
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "machine": platform.machine(),
               "load": os.getloadavg()[0]}
    latest = {"machine": machine, "idle": idle, "requests": requests, "recording": rows}
    (OUT / "latest.json").write_text(json.dumps(latest, indent=2) + "\n")
    over = verdicts(rows, idle)
    if over:
        sys.exit("over the limit:\n  " + "\n  ".join(over))


main()
