"""Numbers in a TensorBoard event file, written at once in the caller's thread, so that a full disk is an error of it.

`tensorboardX.SummaryWriter` writes in a thread of its own: an error there ends the thread with a traceback, and the
run would wait for it for ever as soon as its queue is full.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_core.durable import explained, make_folder

from qvl_train.append_file import AppendFile


class TensorBoard:
    """An event file of a run that begins, or goes on, at `purge_step`: what older files have of later steps is hidden.

    The file is made with the first row. Raises DiskError or OutputError.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        self._folder = folder
        self._purge_step = purge_step
        self._file: AppendFile | None = None

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append numbers under their keys, all or none."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._file is None:
            self._file = self._open()
        # One event for the whole row: one for each number costs some 50 microseconds each.
        values = [Summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        self._file.append(_record(Event(wall_time=time.time(), step=step, summary=Summary(value=values))))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> AppendFile:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        now = time.time()
        with explained(self._folder):
            make_folder(self._folder)
        # Readers take files in the order of their names; two of one second need two of them.
        name = f"events.out.tfevents.{int(now)}.{int(now % 1 * 1e6):06d}.{socket.gethostname()}.{os.getpid()}"
        file = AppendFile(self._folder / name)
        start = SessionLog(status=SessionLog.START)
        head = [
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=self._purge_step, session_log=start),
        ]
        try:
            file.append(b"".join(map(_record, head)))
        except BaseException:
            file.close()
            raise
        return file


def _record(event: Any) -> bytes:
    """Give an event in TFRecord framing: length, its masked CRC-32C, the bytes, theirs."""
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))
