"""Imports `qvl` once and forks a process for every line on stdin: see Processes in conftest.py.

A line is {"wait": pid} or {"arguments": [...], "name": prefix of the files that it writes} and, if wanted,
    limits   {"FSIZE": bytes, "NOFILE": number, "AS": bytes beyond what is mapped already}
    umask    number
    text     Python that is run before the command
    fault    {"calls": [names], "when": N, "error": errno | "text": Python}: what happens at the N-th of these calls;
             with neither, SIGKILL. "path": only calls whose first argument has this in it
"""

import contextlib
import fcntl
import gc
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import threading

import numpy  # noqa: F401
import qvl_convert.jobs  # noqa: F401
import rich.progress  # noqa: F401
import typer
from qvl_core.cli import app
from qvl_core.cli.app import main

# A child that hangs is ended; nothing takes as long, however busy the machine is.
SECONDS = 300
REQUESTS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
OWNERS = {"os": os, "Path": pathlib.Path, "fcntl": fcntl, "shutil": shutil}


class Fault:
    """Counts calls; the N-th is hit. `fired` tells whether it was reached."""

    def __init__(self, calls, when, error=None, text=None, path=""):
        self.when, self.error, self.text, self.path = when, error, text, path
        self.count = 0
        self.fired = ""
        self.lock = threading.Lock()
        for name in calls:
            owner, function = name.split(".")
            self.wrap(OWNERS[owner], function, name)

    def wrap(self, owner, function, name):
        original = getattr(owner, function)

        def call(*arguments, **options):
            with self.lock:
                counts = self.path in str(arguments[0]) if self.path else True
                self.count += counts
                hit = counts and self.count == self.when
                if hit:
                    self.fired = f"{name}{str(arguments)[:200]}"
            if hit:
                self.strike()
            return original(*arguments, **options)

        setattr(owner, function, call)

    def strike(self):
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if self.text is None:
            os.kill(os.getpid(), signal.SIGKILL)
        exec(self.text, {"os": os})


def descriptors():
    return list(pathlib.Path("/proc/self/fd").iterdir())


def virtual_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def child(order):
    signal.alarm(SECONDS)
    for number, end in ((1, "out"), (2, "err")):
        descriptor = os.open(f"{order['name']}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    notes = os.open(f"{order['name']}.notes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    for name, value in order.get("limits", {}).items():
        value += virtual_bytes() if name == "AS" else 0
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    os.umask(order.get("umask", 0o022))
    exec(order.get("text", ""), {"os": os})
    before = descriptors()
    write = os.write
    fault = Fault(**order["fault"]) if "fault" in order else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(order["arguments"])
    # What comes now would hit this program, not `qvl`.
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    gc.collect()
    found = {
        "fired": fault.fired if fault else "",
        "calls": fault.count if fault else 0,
        "leaked": len(descriptors()) - len(before),
        "grown_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak,
    }
    write(notes, json.dumps(found).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve():
    # What is imported late, here instead of in every child.
    with contextlib.redirect_stderr(io.StringIO()):
        main(["convert", "verify", "/", "/"])
    # Reading the signatures of all commands takes longer than converting a small model: once, too.
    command = typer.main.get_command(app._full_app("convert", False))
    app._full_app = lambda *_: command
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(json.dumps({"status": os.waitpid(order["wait"], 0)[1]}), flush=True)
            continue
        for end in ("out", "err", "notes"):
            # A process that is killed at once has written nothing.
            pathlib.Path(f"{order['name']}.{end}").write_text("")
        pid = os.fork()
        if pid == 0:
            try:
                code = child(order)
            finally:
                if sys.exc_info()[0] is not None:
                    sys.excepthook(*sys.exc_info())
                    sys.stderr.flush()
                    os._exit(99)
            os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    serve()
