"""What schemathesis can't know from the schema, put right before a request is sent.

Only requests that the schema calls valid are changed, and only in the values named here: a url must
not lead off this machine, a storage path not out of the test's directory, and a change must not lock
the other tests out. Invalid requests go as they were made.
"""

import datetime
import itertools
import json
import os
import urllib.request

import schemathesis
from urllib3.util import connection

LOGIN = os.environ["RIG_LOGIN"]  # value of the Authorization header
PASSWORD = os.environ["RIG_PASSWORD"]
STORAGE = os.environ["RIG_STORAGE"]  # an existing directory
BASE = os.environ["RIG_BASE"]

names = itertools.count()
hosts = itertools.count()
connect = connection.create_connection


def connect_from_anywhere(address, timeout=None, source_address=None, socket_options=None):
    """Each connection has an address of its own in 127.0.0.0/8.

    A check sends wrong passwords to every operation and wants 401; from one address the recorder
    answers 429 to the sixth within a minute.
    """
    host = next(hosts) % 60000
    source_address = (f"127.77.{host // 250}.{host % 250 + 1}", 0)
    return connect(address, timeout, source_address, socket_options)


connection.create_connection = connect_from_anywhere


def request(method, path, body=None):
    call = urllib.request.Request(BASE + path, method=method)
    call.add_header("Authorization", LOGIN)
    if body is not None:
        call.add_header("Content-Type", "application/json")
        call.data = json.dumps(body).encode()
    with urllib.request.urlopen(call) as answer:
        return json.load(answer)


def is_valid(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


def unused_stream():
    """A stream that may be deleted: the id in a valid DELETE would hardly ever exist."""
    # Switched off: it is only there to be deleted.
    body = {"name": f"made by a hook {next(names)}", "url": "testpattern://", "enabled": False}
    return request("POST", "/api/v1/streams", body)["id"]


def put_right(path, body):
    for name, value in body.items():
        # To JSON Schema 5.0 is an integer; the API's contract wants integers written as such.
        if isinstance(value, float) and value.is_integer():
            body[name] = int(value)
    if path.startswith("/api/v1/streams"):
        if "url" in body:
            # Port 9 of this machine, where nobody listens, instead of any host of the world; and no
            # test pattern of 8192x8192 that would take the machine away from the other tests.
            body["url"] = "rtsp://127.0.0.1:9/stream"
        if isinstance(body.get("sub_url"), str):
            body["sub_url"] = "rtsp://127.0.0.1:9/sub"
        # It is for rtsps:// alone.
        body.pop("tls_fingerprint", None)
        if "name" in body:
            # Names are unique.
            body["name"] = f"{body['name'][:50]} {next(names)}"
    if path == "/api/v1/streams/test":
        body.pop("id", None)  # of a stream that may not exist
    if path == "/api/v1/settings":
        if "storage_path" in body:
            body["storage_path"] = STORAGE
        if "swap_path" in body:
            body["swap_path"] = os.path.dirname(STORAGE) + "/swap"
        if "swap_size" in body:
            body["swap_size"] = min(body["swap_size"], 64 << 20)  # what any disk has room for
        if "web_auth_enabled" in body:
            body["web_auth_enabled"] = True  # else the check for missing authentication finds none
        if "max_streams" in body:
            body["max_streams"] = 512  # never under the present number of streams
    if path == "/api/v1/backup":
        body["streams"] = []  # their names and hosts can't be what a schema makes up
        if isinstance(body.get("settings"), dict):
            put_right("/api/v1/settings", body["settings"])
    if path == "/api/v1/password":
        body["current"] = body["new"] = PASSWORD
    if path == "/api/v1/session":
        body["username"], body["password"] = "admin", PASSWORD


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path.endswith("/mjpeg") and str(case.path_parameters.get("id")) == "0":
        # The answer of the stream that exists never ends.
        case.path_parameters["id"] = 4000000000
    if not is_valid(case):
        return
    if case.path == "/api/v1/streams/{id}":
        id = int(case.path_parameters["id"])
        if id % 2 == 0:
            # The odd ones stay as they are: mostly ids that don't exist.
            case.path_parameters["id"] = unused_stream() if case.method == "DELETE" else 0
    query = case.query if isinstance(case.query, dict) else {}
    if "_HLS_msn" in query:
        # A segment that was there before; which are there now, and which come next, nobody can know.
        query["_HLS_msn"] = 0
    else:
        # A part is one of a segment.
        query.pop("_HLS_part", None)
    if case.path.endswith("/export.mp4") and int(case.path_parameters["id"]) % 2 == 0:
        case.path_parameters["id"] = 0  # the demo, of which there are recordings
    if "start" in query and "end" in query:
        # Each is valid by itself, but time goes one way only.
        start, end = (datetime.datetime.fromisoformat(query[name]) for name in ("start", "end"))
        if end <= start and case.path.endswith("/export.mp4"):
            query["start"], query["end"] = query["end"], query["start"]
            if start == end:
                query["end"] = "2099-01-01T00:00:00Z"
        elif end <= start:
            del query["end"]
    if isinstance(case.body, dict):
        put_right(case.path, case.body)


@schemathesis.hook
def after_call(context, case, response):
    # A stream that was made is removed again: there is a maximum.
    if case.method == "POST" and case.path == "/api/v1/streams" and response.status_code == 200:
        request("DELETE", f"/api/v1/streams/{response.json()['id']}")
