"""What schemathesis can't know from the schema, put right before a request is sent.

Only requests that the schema calls valid are changed, and only in the values named here: a url must
not lead off this machine, a storage path not out of the test's directory, and a change must not lock
the other tests out. Invalid requests go as they were made.
"""

import json
import os
import urllib.request

import schemathesis

LOGIN = os.environ["RIG_LOGIN"]  # value of the Authorization header
PASSWORD = os.environ["RIG_PASSWORD"]
STORAGE = os.environ["RIG_STORAGE"]  # an existing directory
BASE = os.environ["RIG_BASE"]

count = 0


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
    global count
    count += 1
    # Switched off: it is only there to be deleted.
    body = {"name": f"made by a hook {count}", "url": "testpattern://", "enabled": False}
    return request("POST", "/api/v1/streams", body)["id"]


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path.endswith("/mjpeg") and str(case.path_parameters.get("id")) == "0":
        # The answer of the stream that exists never ends.
        case.path_parameters["id"] = 4000000000
    if not is_valid(case):
        return
    body = case.body if isinstance(case.body, dict) else {}
    path = case.path
    if path == "/api/v1/streams/{id}" and case.path_parameters["id"] % 2 == 0:
        # The others stay as they are: mostly ids that don't exist.
        case.path_parameters["id"] = unused_stream() if case.method == "DELETE" else 0
    if path.startswith("/api/v1/streams") and "url" in body:
        # Port 9 of this machine, where nobody listens, instead of any host of the world; and no test
        # pattern of 8192x8192 that would take the machine away from the other tests.
        body["url"] = "rtsp://user:***@127.0.0.1:9/x" if "***" in body["url"] else "rtsp://127.0.0.1:9/x"
        if case.method == "POST" or "***" in body["url"]:
            body["url"] = "rtsp://127.0.0.1:9/x"
    if path == "/api/v1/settings":
        if "storage_path" in body:
            body["storage_path"] = STORAGE
        if "web_auth_enabled" in body:
            body["web_auth_enabled"] = True  # else the check for missing authentication finds none
        if "max_streams" in body:
            body["max_streams"] = max(body["max_streams"], 100)
    if path == "/api/v1/password":
        body["current"] = body["new"] = PASSWORD


@schemathesis.hook
def after_call(context, case, response):
    # A stream that was made is removed again: the next one may have its name, and there is a maximum.
    if case.method == "POST" and case.path == "/api/v1/streams" and response.status_code == 200:
        request("DELETE", f"/api/v1/streams/{response.json()['id']}")
