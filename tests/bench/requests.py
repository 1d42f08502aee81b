"""How many requests a second the recorder answers: wrk at `GET /api/v1/streams`, with 1 and with 32 connections.

    unshare --map-root-user --net requests.py BINARY HOME SECONDS

In a network namespace of its own, where each address in 127.1.0.0/16 is reached from itself: requests are counted by
address, and the limits stay what they are for everybody. Prints a line of JSON. An answer other than 200 is an error.
"""

import base64
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

BINARY, HOME, SECONDS = sys.argv[1:]
SCRIPT = pathlib.Path(__file__).with_name("requests.lua")
PASSWORD = "bench-password"
LOGIN = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
URL = "http://127.1.0.1:8080"
# That is what the answer is about.
STREAMS = 16
REFILL_S = 5


def make_routes():
    lines = ["link set lo up"]
    for number in range(1000):
        address = f"127.1.{number // 250}.{number % 250 + 1}"
        lines.append(f"route add local {address} dev lo src {address} table local")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def cpu_s(process):
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def add_streams():
    for n in range(STREAMS):
        body = json.dumps({"name": f"camera {n}", "url": f"rtsp://127.0.0.1:9/{n}", "enabled": False}).encode()
        headers = {"Authorization": LOGIN, "Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{URL}/api/v1/streams", body, headers)).close()


def measure(process, connections):
    before = cpu_s(process)
    done = subprocess.run(["wrk", f"-t{connections}", f"-c{connections}", f"-d{SECONDS}s", "-s", SCRIPT, "-H",
                           f"Authorization: {LOGIN}", f"{URL}/api/v1/streams"],
                          capture_output=True, text=True, check=True).stdout
    cpu = cpu_s(process) - before
    wrong = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", done)
    if wrong:
        sys.exit(f"{connections} connections: {wrong[0]}")
    count = int(re.search(r"(\d+) requests in", done)[1])
    per_second = float(re.search(r"Requests/sec: +([\d.]+)", done)[1])
    return {"connections": connections, "requests_per_second": round(per_second),
            "cpu_us_per_request": round(cpu / count * 1e6, 1)}


def main():
    make_routes()
    password = pathlib.Path(HOME) / "password"
    password.write_text(PASSWORD)
    words = [BINARY, "--data-dir", f"{HOME}/data", "--admin-password-file", password, "--log-level", "warn"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        add_streams()
        rows = []
        for connections in (1, 32):
            rows.append(measure(process, connections))
            # After that every address may do again what it could at first.
            time.sleep(REFILL_S)
        print(json.dumps(rows))
    finally:
        process.terminate()
        process.wait(timeout=20)


main()
