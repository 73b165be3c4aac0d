"""A video file opened safely, and the table of its packets: which frames there are, when each is shown, where to start.

Runs in the decoding process only. FFmpeg guesses a container from content, and some containers name other files; the
demuxers are therefore an allow-list, protocols are off, and FFmpeg is given our open file and no name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qvl_data.media.error import MediaError
from qvl_data.media.video_facts import CONTAINERS, MAX_DURATION_S, MAX_FRAME_PIXELS, MAX_FRAMES, MAX_STREAMS

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_BUFFER_BYTES = 1024**2
_UNKNOWN = -(2**63)


@contextmanager
def open_container(file: BinaryIO) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video from its start, and give it with its video stream. Raises MediaError, also for what breaks inside.

    The stream's sizes are within bounds; nothing was decoded but what FFmpeg needs to know the stream's format.
    """
    import av

    _check_segment(file)
    file.seek(0)
    is_open = False
    try:
        with av.open(
            file,
            container_options={"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"},
            # Text of tags is not used; strict decoding of it would refuse files with tags in other encodings.
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
            io_open=_refuse_other_files,
        ) as container:
            stream = _video_stream(container)
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            # Threads inside a decoder cost a sixth more processor time (h264, 720p, 2 cores); processes cost none.
            stream.codec_context.thread_count = 1
            is_open = True
            yield container, stream
    except MediaError:
        raise
    except (av.error.FFmpegError, *_OTHER_ERRORS) as error:
        raise MediaError(_reading_text(error, file, is_open)) from None


# What else comes of damaged headers: our file asked to go where no file is, and PyAV's own conversions.
_OTHER_ERRORS = (OSError, ValueError, OverflowError, MemoryError, IndexError)


def _reading_text(error: Exception, file: BinaryIO, is_open: bool) -> str:
    reason = str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
    if is_open:
        return f"is damaged or cut short: {reason}"
    file.seek(0)
    return (
        f"cannot be opened as a video: {reason}; it starts with {file.read(12)!r}. "
        f"Containers that are read: {', '.join(CONTAINERS)}"
    )


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError("a video may not open other files")


def _video_stream(container: InputContainer) -> VideoStream:
    from av.video.stream import VideoStream

    streams = container.streams
    if len(streams) > MAX_STREAMS:
        raise MediaError(f"has {len(streams):,} streams, more than {MAX_STREAMS}")
    stream = streams.best("video")
    # Older PyAV does not tell what a stream is for; a cover picture then passes for a video of one frame.
    is_cover = int(getattr(stream, "disposition", 0)) & _ATTACHED_PICTURE
    if not isinstance(stream, VideoStream) or is_cover:
        kinds = ", ".join(sorted({one.type for one in streams})) or "none at all"
        raise MediaError(f"has no video stream; its streams: {kinds}. A file that was cut short looks like this too")
    # None where FFmpeg knows no decoder, against what PyAV's types say.
    context: VideoCodecContext | None = stream.codec_context
    if context is None:
        raise MediaError("has a video stream of a codec that FFmpeg does not know, or damaged beyond recognition")
    width, height = context.width, context.height
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(
            f"has frames of {width} x {height} = {width * height:,} pixels by its header, more than "
            f"{MAX_FRAME_PIXELS:,}; nothing is decoded"
        )
    if width < 1 or height < 1:
        raise MediaError(f"has frames of {width} x {height} pixels by its header: the file is damaged or cut short")
    for duration, base in ((stream.duration, stream.time_base), (container.duration, _CONTAINER_TICK)):
        if duration is not None and base is not None and duration * float(base) > MAX_DURATION_S:
            seconds = duration * float(base)
            raise MediaError(f"lasts {seconds:,.0f} s by its header, more than {MAX_DURATION_S:,.0f}")
    return stream


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def _check_segment(file: BinaryIO) -> None:
    """Raise MediaError for a matroska file that ends before its segment does, which FFmpeg reads without a word.

    RFC 8794: an element is an id, a size whose first bit set tells its width, and content; all size bits set: unknown.
    """
    file.seek(0)
    head = file.read(4096)
    if not head.startswith(_EBML):
        return
    size, width = _element_size(head[len(_EBML) :])
    start = len(_EBML) + width + size
    if size < 0 or head[start : start + len(_SEGMENT)] != _SEGMENT:
        return
    start += len(_SEGMENT)
    size, width = _element_size(head[start:])
    held = file.seek(0, 2) - start - width
    if size > held:
        raise MediaError(f"is cut short: {held:,} of {size:,} bytes of its matroska segment are there")


def _element_size(data: bytes) -> tuple[int, int]:
    """Give the size at the start of `data` and the bytes that it takes; -1 for an unknown or broken one."""
    if not data or not data[0]:
        return -1, 1
    width = 9 - data[0].bit_length()
    size = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (-1 if size == (1 << 7 * width) - 1 or len(data) < width else size), width


# AV_DISPOSITION_ATTACHED_PIC: the cover picture of a sound file.
_ATTACHED_PICTURE = 0x400
_CONTAINER_TICK = 1e-6


# --- the packets ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """The packets of a video stream in the order of the file, which is that of decoding. K packets, F frames.

    `pts` [K] is when a packet's frame is shown, in ticks of `tick_s` seconds; `keys` are the packets of key frames,
    rising; `frames` [F] are the packets that become frames, in the order of showing. With `is_exact` False times are
    missing or doubled: frames are then found by counting what a whole decoding gives.
    """

    pts: NDArray[np.int64]
    keys: NDArray[np.int64]
    frames: NDArray[np.int64]
    tick_s: float
    is_exact: bool

    def times_s(self) -> NDArray[np.float64]:
        """Seconds from the first frame to each, float64 [F]; nan where the table is not exact."""
        if not self.is_exact:
            return np.full(len(self.frames), np.nan)
        ticks = self.pts[self.frames]
        return (ticks - ticks[0]) * self.tick_s

    def key_before(self, packet: int) -> int:
        """Give the packet to start decoding from so that the frame of `packet` comes out right.

        A frame shown before the key frame that precedes it in the file leans on the group before.
        """
        place = int(np.searchsorted(self.keys, packet, side="right")) - 1
        while place > 0 and self.pts[self.keys[place]] > self.pts[packet]:
            place -= 1
        return int(self.keys[place])


def packet_table(
    container: InputContainer, stream: VideoStream, on_packet: Callable[[Packet], None] | None = None
) -> PacketTable:
    """Read every packet of the stream once, decoding none. Raises MediaError for none, too many, or a broken file.

    `on_packet` is called with each, after it has been noted.
    """
    pts: list[int] = []
    keys: list[bool] = []
    shown: list[bool] = []
    is_hidden = _hidden_test(stream.codec_context.name)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if len(pts) >= MAX_FRAMES:
            raise MediaError(f"has more than {MAX_FRAMES:,} frames")
        if packet.is_corrupt:
            raise MediaError(f"is damaged or cut short: packet {len(pts):,} of its video is broken")
        pts.append(_UNKNOWN if packet.pts is None else packet.pts)
        keys.append(packet.is_keyframe)
        shown.append(not packet.is_discard and not is_hidden(packet))
        if on_packet is not None:
            on_packet(packet)
    return _table(np.array(pts, np.int64), np.array(keys, bool), np.array(shown, bool), float(stream.time_base or 0))


def _hidden_test(codec: str) -> Callable[[Packet], bool]:
    """Give the test for packets that are decoded and never shown. VP8's frame tag has a bit for it (RFC 6386, 9.1)."""
    if codec not in ("vp8", "libvpx"):
        return lambda packet: False
    return lambda packet: not bytes(memoryview(packet)[:1])[0] & 0x10


def _table(pts: NDArray[np.int64], is_key: NDArray[np.bool_], shown: NDArray[np.bool_], tick_s: float) -> PacketTable:
    if not shown.any():
        raise MediaError("has a video stream without a single frame")
    is_exact = bool(is_key.any() and tick_s > 0 and (pts != _UNKNOWN).all() and len(np.unique(pts)) == len(pts))
    if is_exact:
        # What comes before the first key frame, or leans on what came before it, cannot be decoded.
        first = int(np.argmax(is_key))
        shown = shown & (pts >= pts[first])
        shown[:first] = False
        is_exact = bool(shown.any())
    frames = np.flatnonzero(shown)
    if is_exact:
        frames = frames[np.argsort(pts[frames], kind="stable")]
    return PacketTable(pts=pts, keys=np.flatnonzero(is_key), frames=frames, tick_s=tick_s, is_exact=is_exact)


# --- orientation ------------------------------------------------------------------------------------------------------

# The upper left 2 x 2 of a display matrix (a, b, c, d), by signs, to quarter turns anticlockwise and a mirror first
# (left to right). ISO/IEC 14496-12, section 6.2.2: a shown point is (x, y) times the matrix.
_ORIENTATIONS = {
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (3, False),
    (-1, 0, 0, -1): (2, False),
    (0, -1, 1, 0): (1, False),
    (-1, 0, 0, 1): (0, True),
    (1, 0, 0, -1): (2, True),
    (0, 1, 1, 0): (1, True),
    (0, -1, -1, 0): (3, True),
}


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Give the quarter turns anticlockwise to show a decoded frame, and whether it is mirrored left to right before.

    Raises MediaError for any other turn.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    signs = tuple(0 if abs(value) < 1 << 8 else (1 if value > 0 else -1) for value in (a, b, c, d))
    if signs not in _ORIENTATIONS:
        raise MediaError(f"is shown turned by other than quarter turns: display matrix {(a, b, c, d)} / 65536")
    return _ORIENTATIONS[signs]
