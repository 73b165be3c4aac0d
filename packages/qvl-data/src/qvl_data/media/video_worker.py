"""The program of a decoding process: reads requests from standard input, opens videos, writes answers.

Started as `python -m qvl_data.media.video_worker` by video_process.py. A decoder may hang or die of a damaged file;
here it takes only this process with it.

A request is one line of JSON with `do`, `path`, `timeout_s` and what the deed needs. An answer is any number of pieces,
each a header of a kind (one byte) and a length (8 bytes, little endian), and as many bytes:
`F` pixels of one frame, then one of `D` (done, JSON), `E` (the file is unusable, text), `B` (our own bug, text).
The first piece of all is `D`: the process is ready.

It ends when standard input does, also in the middle of a request, when its parent is gone, and by the kernel's alarm
soon after a request's deadline, whoever is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import resource
import select
import signal
import struct
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qvl_core.errors import DataError
from qvl_core.input_file import open_regular_file

from qvl_data.media.error import MediaError
from qvl_data.media.video_facts import VideoFacts

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL import Image

    from qvl_data.media.video_container import PacketTable

HEADER = struct.Struct("<cQ")
Answer = Callable[[bytes, bytes], None]
"""Sends a piece: its kind and its bytes."""
Deed = Callable[[Mapping[str, Any], Answer], Mapping[str, Any]]
"""Does a request; may send `F` pieces, and gives the content of `D`. Raises MediaError."""

_MEMORY_BYTES = 8 * 1024**3
_HASH_BYTES = 4 * 1024**2
_LOOK_UP_S = 1.0
_ALARM_AFTER_S = 5.0


# --- deeds ------------------------------------------------------------------------------------------------------------


def probe(request: Mapping[str, Any], answer: Answer) -> Mapping[str, Any]:
    """Give the facts of a video, as VideoFacts' fields. Decodes one frame, as only a frame tells its rotation."""
    from qvl_data.media.video_container import open_container, orientation
    from qvl_data.media.video_frames import first_frame, table_and_key_frame

    with _opened(request) as file:
        digest = _digest(file)
        with open_container(file) as (container, stream):
            table, frame = table_and_key_frame(container, stream)
            rate, stated = float(stream.average_rate or 0), stream.frames
            ticks = stream.duration if stream.duration is not None and stream.duration > 0 else None
            duration_s = ticks * table.tick_s if ticks else (container.duration or 0) / 1e6
        if frame is None:
            with open_container(file) as (container, stream):
                frame = first_frame(container, stream)
        # Only a decoded frame tells its rotation; PyAV does not give the stream's.
        height, width = frame.height, frame.width
        if orientation(frame)[0] % 2:
            height, width = width, height
    return vars(_facts(table, height, width, digest, rate=rate, duration_s=duration_s, is_counted=not stated))


def load(request: Mapping[str, Any], answer: Answer) -> Mapping[str, Any]:
    """Send the wanted frames, resized, as RGB bytes [height, width, 3] each, and give their times in seconds."""
    from qvl_data.media.video_frames import decode_frames

    numbers, shown, resized = request["numbers"], tuple(request["shown"]), tuple(request["resized"])
    with _opened(request) as file:
        if _digest(file) != request["digest"]:
            raise MediaError("the file was changed after it had been checked; start the run again")

        def send(number: int, frame: VideoFrame) -> None:
            image = _upright(frame)
            if (image.height, image.width) != shown:
                raise MediaError(
                    f"frame {number:,} has {image.width} x {image.height} pixels, the first one {shown[1]} x {shown[0]}"
                )
            answer(b"F", _resized(image, resized))

        table = decode_frames(file, numbers, send)
    return {"times_s": [float(second) for second in table.times_s()[numbers]]}


DEEDS: Mapping[str, Deed] = {"probe": probe, "load": load}


def _opened(request: Mapping[str, Any]) -> BinaryIO:
    try:
        return open_regular_file(Path(request["path"]), error_type=DataError)
    except DataError as error:
        raise MediaError(error.problems[0].message) from None


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := file.read(_HASH_BYTES):
        digest.update(part)
    if not file.tell():
        raise MediaError("the file is empty: 0 bytes")
    return digest.hexdigest()


def _facts(
    table: PacketTable, height: int, width: int, digest: str, *, rate: float, duration_s: float, is_counted: bool
) -> VideoFacts:
    times = table.times_s()
    count = len(times)
    span = float(times[-1]) if table.is_exact else 0.0
    if rate <= 0:
        rate = (count - 1) / span if span > 0 else 0.0
    if duration_s <= 0:
        duration_s = span * count / (count - 1) if span > 0 else 0.0
    return VideoFacts(
        height=height,
        width=width,
        frames=count,
        fps=rate,
        is_variable=_is_variable(table, span, rate),
        duration_s=duration_s,
        digest=digest,
        is_counted=is_counted,
    )


def _is_variable(table: PacketTable, span: float, rate: float) -> bool:
    """Say whether frames stray from even spacing at this rate by more than the container's clock explains.

    A clock tick of rounding at each end of the file makes two; where ticks are about as long as frames, half a frame.
    A rate is wrong if it is off by more than a frame and a hundredth of the file.
    """
    import numpy as np

    count = len(table.frames)
    if not table.is_exact or count < 3:
        return False
    if abs(span * rate - (count - 1)) > 1 + count / 100:
        return True
    even = np.linspace(0.0, span, count)
    allowed = min(2 * table.tick_s, span / (count - 1) / 2)
    return bool(np.abs(table.times_s() - even).max() > allowed * (1 + 1e-9))


def _upright(frame: VideoFrame) -> Image.Image:
    """Give a decoded frame as an RGB image as it is to be shown."""
    from PIL import Image

    from qvl_data.media.video_container import orientation

    turns, is_mirrored = orientation(frame)
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    if is_mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Pillow's rotations are anticlockwise.
    rotation = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}.get(turns)
    return image if rotation is None else image.transpose(rotation)


def _resized(image: Image.Image, size: tuple[int, int]) -> bytes:
    from PIL import Image

    height, width = size
    return image.resize((width, height), Image.Resampling.BICUBIC).tobytes()


# --- requests and answers ---------------------------------------------------------------------------------------------


def serve(deeds: Mapping[str, Deed], requests: int, answers: int) -> None:
    """Answer requests from one descriptor to another until the first one ends. Never returns while the parent lives."""

    def answer(kind: bytes, content: bytes) -> None:
        for part in (HEADER.pack(kind, len(content)), content):
            view = memoryview(part)
            while view:
                view = view[os.write(answers, view) :]

    answer(b"D", b"{}")
    for line in _lines(requests):
        request = json.loads(line)
        # The default action of the alarm ends the process, even one that hangs inside a decoder.
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + _ALARM_AFTER_S)
        try:
            found = json.dumps(deeds[request["do"]](request, answer)).encode()
        except MediaError as error:
            answer(b"E", str(error).encode("utf-8", "backslashreplace"))
        except MemoryError:
            answer(b"E", f"needs more than {_MEMORY_BYTES // 1024**3} GiB of memory to decode".encode())
        except Exception:
            answer(b"B", traceback.format_exc().encode("utf-8", "backslashreplace"))
        else:
            answer(b"D", found)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _lines(descriptor: int) -> Iterator[bytes]:
    """Give lines as they come. A thread reads them, so that the end of the input ends us at any moment."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    parent = os.getppid()

    def read() -> None:
        rest = b""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        # A process that the parent forked may hold the other end open, so the parent is looked for too.
        while os.getppid() == parent:
            if not poll.poll(_LOOK_UP_S * 1000):
                continue
            part = os.read(descriptor, 1 << 16)
            if not part:
                break
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def main() -> None:
    """Set the process up and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    # What a library prints must not end up among the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    import av

    av.logging.set_level(None)
    serve(DEEDS, 0, answers)


if __name__ == "__main__":
    main()
