"""Calls of a server in a process of its own, for tests of `qvl serve`."""

from __future__ import annotations

import http.client
import json

# So long only where the machine is busy with other things.
PATIENCE_S = 900


def post(port: int, body: object) -> tuple[int, bytes]:
    """Ask for a completion, and give status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, response.read()


def get(port: int, path: str) -> bytes:
    """Give the body of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path)
    return connection.getresponse().read()


def metric(port: int, name: str) -> float:
    """Give the value of a metric without labels, 0 where there is none."""
    lines = get(port, "/metrics").decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)
