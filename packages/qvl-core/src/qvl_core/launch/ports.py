"""Whether a port is free, who has it, and which one is."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from qvl_core.errors import OutputError, Problem
from qvl_core.launch.proc import PROC, command_of

_LISTENING = "0A"
_TRIES = 20


def require_free_port(master: str, where: str) -> None:
    """Raise OutputError (exit 2) if something on this machine listens on the port of `master` ("host:port").

    The message names the owner where it may be known, and a port that is free. Returns at once either way.
    """
    host, _, port_text = master.rpartition(":")
    port = int(port_text)
    if is_free(port):
        return
    owner = owner_of(port)
    owner = owner or "a process that this user may not see, or a connection that is just ending"
    message = f"port {port} is in use on this machine, by {owner}"
    fix = f"--set launch.master={host}:{free_port()}"
    raise OutputError(Problem(where=where, key="launch.master", message=message, fix=fix))


def is_free(port: int) -> bool:
    """Tell whether a process of ours could listen on the port, on any address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the engines do it: connections of a run that has just ended do not count. Binding fails where somebody
        # listens; the probe itself does not listen, so that two that ask at the same moment find the port free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def free_port() -> int:
    """Give a port that is free now, outside the range from which the system takes them for outgoing connections."""
    for port in range(29501, 29501 + _TRIES):
        if is_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def owner_of(port: int) -> str:
    """Give "process 12 (python serve.py)" of the process that listens on the port; "" where it cannot be seen."""
    sockets = {
        f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listening_inodes(PROC / "net" / name, port)
    }
    for folder in sorted(PROC.iterdir()):
        if folder.name.isdecimal() and _has_one(folder / "fd", sockets):
            return f"process {folder.name} ({command_of(int(folder.name))[:120]})"
    return ""


def _listening_inodes(table: Path, port: int) -> list[str]:
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]


def _has_one(descriptors: Path, sockets: set[str]) -> bool:
    try:
        return any(str(entry.readlink()) in sockets for entry in descriptors.iterdir())
    except OSError:
        return False
