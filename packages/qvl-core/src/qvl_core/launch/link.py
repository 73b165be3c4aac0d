"""A socket between the process that a person started and the first rank of its workers, for those that work on demand.

It lies in a folder that only this user may enter, and the peer's user is asked of the kernel as well. Messages are JSON
with arrays behind it: nothing that comes over a wire is unpickled in this project.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import RunError
from qvl_core.launch.processes import temporary_folder

# Where the socket is, for the workers.
LINK_VARIABLE = "QVL_LINK"

_SOCKET = "rank0.sock"
_SIZES = struct.Struct("<II")
_LARGEST_HEAD = 64 * 1024**2
_ACCEPT_PERIOD_S = 0.1
# Process, user and group of a peer, as the kernel gives them.
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """What is said, with small values and arrays by name."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Link:
    """One side of a connection. One thread receives; any thread may send."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send all of it. Raises OSError where the other side is gone."""
        arrays = [np.ascontiguousarray(array) for array in message.arrays.values()]
        described = [
            [name, array.dtype.str, list(message.arrays[name].shape)]
            for name, array in zip(message.arrays, arrays, strict=True)
        ]
        head = json.dumps([message.kind, message.fields, described]).encode()
        with self._sending:
            self._socket.sendall(_SIZES.pack(len(head), 0) + head)
            for array in arrays:
                if array.size:
                    self._socket.sendall(array.reshape(-1).view(np.uint8).data)

    def receive(self) -> Message | None:
        """Wait for the next message; None once the other side has closed or is gone."""
        try:
            sizes = self._read(_SIZES.size)
            if sizes is None:
                return None
            length = _SIZES.unpack(sizes)[0]
            if length > _LARGEST_HEAD:
                raise RunError(f"a message between the processes says that it has {length:,} bytes")
            head = self._read(length)
            if head is None:
                return None
            kind, fields, described = json.loads(bytes(head))
            arrays = {}
            for name, dtype, shape in described:
                data = self._read(math.prod(shape) * np.dtype(dtype).itemsize)
                if data is None:
                    return None
                arrays[name] = np.frombuffer(data, dtype).reshape(shape)
        except OSError:
            return None
        return Message(kind=kind, fields=fields, arrays=arrays)

    def close(self) -> None:
        """Close it, and wake who waits for a message."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = self._socket.recv_into(view[done:])
            if not count:
                return None
            done += count
        return data


class Door:
    """Where the first rank knocks: a context manager that makes the folder and takes it away."""

    def __enter__(self) -> Door:
        """Raises RunError where there can be no socket: the path of one has at most 107 bytes."""
        self._folder = temporary_folder()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(self._folder / _SOCKET))
        except OSError as error:
            self.__exit__(None, None, None)
            fix = "fix: make /dev/shm writable, or set TMPDIR to a short path of a local disk"
            raise RunError(f"{self._folder}: no socket can be made here: {error}\n  {fix}") from None
        self._listener.listen(1)
        self._listener.settimeout(_ACCEPT_PERIOD_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def variables(self) -> dict[str, str]:
        """Give what a worker needs in its environment to find here."""
        return {LINK_VARIABLE: str(self._folder / _SOCKET)}

    def accept(self, is_wanted: Callable[[], bool]) -> Link | None:
        """Wait for a process of this user; None as soon as it is not wanted any more."""
        while is_wanted():
            try:
                connected, _ = self._listener.accept()
            except TimeoutError:
                continue
            connected.settimeout(None)
            if _user_of(connected) == os.geteuid():
                return Link(connected)
            connected.close()
        return None


def knock(environment: Mapping[str, str]) -> Link:
    """Connect to the process that started this one. Raises RunError where nobody is there."""
    path = environment.get(LINK_VARIABLE, "")
    if not path:
        raise RunError("nobody asks these workers: they are started by `qvl infer`, `qvl chat` or `qvl serve`")
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(path)
    except OSError as error:
        connected.close()
        raise RunError(f"the process that asks is gone: {Path(path).parent}: {error.strerror}") from None
    return Link(connected)


def _user_of(connected: socket.socket) -> int:
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])
