"""Memory and CPU of the release binary: idle, and recording cameras that nobody watches.

The cameras are clips of 1920x1080 at 15 fps and 4 Mbit/s, served in real time by the RTSP server of the
end-to-end tests. Prints a table and writes target/bench/latest.json; exit code 1 if a figure is over
its limit.
"""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
OUT = TOP / "target" / "bench"
BINARY = TOP / "target" / "release" / "lightnvr"

STREAMS = 4
IDLE_SECONDS = 10
WARM_UP_SECONDS = 15
SECONDS = 60
IDLE_MB_MAX = 8.0
PEAK_MB_MAX = 20.0
PASSWORD = "bench-password"
MB = 1e6


def make_clip():
    """Ten minutes that repeat 10 s of picture: more than any run listens to."""
    part, clip = OUT / "bench-part.mp4", OUT / "bench-1080p15-4M.mp4"
    if not clip.exists():
        source = "testsrc2=s=1920x1080:r=15,noise=alls=20:allf=t,format=yuv420p"
        quiet = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
        subprocess.run(quiet + ["-f", "lavfi", "-i", source, "-t", "10", "-c:v", "libx264", "-preset",
                                "veryfast", "-bf", "0", "-g", "30", "-b:v", "4M", "-minrate", "4M",
                                "-maxrate", "4M", "-bufsize", "4M", "-x264-params", "nal-hrd=cbr", part],
                       check=True)
        made = OUT / "bench-made.mp4"
        subprocess.run(quiet + ["-stream_loop", "59", "-i", part, "-c", "copy", made], check=True)
        made.rename(clip)
        part.unlink()
    return clip


class Recorder:
    def __init__(self, home):
        password = home / "password"
        password.write_text(PASSWORD)
        self.log = open(home / "log", "w")
        self.process = subprocess.Popen(
            [BINARY, "--data-dir", home / "data", "--listen", "127.0.0.1:0",
             "--admin-password-file", password, "--log-level", "warn"],
            stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        self.url = re.fullmatch(r"LightNVR \S+ ready: (http://\S+)/\n", line)[1]

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method)
        login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", "Basic " + login)
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def memory_mb(self, field):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB$", status, re.M)[1]) * 1024 / MB

    def cpu_s(self):
        # The command's name may hold blanks and brackets: fields are counted after the last one.
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        if self.process.wait(timeout=10) != 0:
            sys.exit(f"the recorder ended with {self.process.returncode}")


def measure(home, server_url):
    recorder = Recorder(home)
    try:
        time.sleep(IDLE_SECONDS)
        idle_mb = recorder.memory_mb("VmRSS")
        for n in range(STREAMS):
            recorder.call("POST", "/api/v1/streams", {"name": f"camera {n}", "url": server_url})
        time.sleep(WARM_UP_SECONDS)
        states = [s["status"] for s in recorder.call("GET", "/api/v1/streams")["streams"]]
        if states != ["connected"] * STREAMS:
            sys.exit(f"streams are {states}")
        bytes_before = sum(r["size"] for r in recorder.call("GET", "/api/v1/recordings")["recordings"])
        cpu_before, began = recorder.cpu_s(), time.monotonic()
        time.sleep(SECONDS)
        seconds = time.monotonic() - began
        cpu = recorder.cpu_s() - cpu_before
        recordings = recorder.call("GET", "/api/v1/recordings")["recordings"]
        size = sum(r["size"] for r in recordings) - bytes_before
        return {
            "idle_rss_mb": round(idle_mb, 1),
            "streams": STREAMS,
            "seconds": round(seconds, 1),
            "peak_rss_mb": round(recorder.memory_mb("VmHWM"), 1),
            "cpu_s_per_stream_minute": round(cpu / STREAMS / seconds * 60, 4),
            "recorded_mbit_s_per_stream": round(size * 8 / 1e6 / seconds / STREAMS, 2),
        }
    finally:
        recorder.stop()
        recorder.log.close()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    clip = make_clip()
    server = subprocess.Popen(
        ["/usr/bin/python3", TOP / "tests" / "rig" / "gst_server.py",
         "--mount", "cam", clip, "h264", "none", "both"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    home = pathlib.Path(tempfile.mkdtemp(dir=OUT))
    try:
        port = int(server.stdout.readline().split()[1])
        figures = measure(home, f"rtsp://127.0.0.1:{port}/cam")
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(home)
    (OUT / "latest.json").write_text(json.dumps(figures, indent=2) + "\n")

    limits = {"idle_rss_mb": IDLE_MB_MAX, "peak_rss_mb": PEAK_MB_MAX}
    print(f"{'figure':<28}{'measured':>10}{'limit':>8}")
    for name, value in figures.items():
        print(f"{name:<28}{value:>10}{limits.get(name, ''):>8}")
    over = [name for name, limit in limits.items() if figures[name] > limit]
    if over:
        sys.exit("over the limit: " + ", ".join(over))


main()
