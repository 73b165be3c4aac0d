"""Chosen frames of a video: only what they need is decoded, and they equal those of a whole decoding.

Runs in the decoding process only. The packet table tells, before anything is decoded, from which key frame a wanted
frame can be reached and which packets lie between; the decoder sees those alone. Between them, frames that no other
frame leans on are not reconstructed, where the codec's decoder can tell them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from qvl_data.media.error import MediaError
from qvl_data.media.video_container import PacketTable, open_container, packet_table

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

Emit = Callable[[int, "VideoFrame"], None]
"""Called with the number of a wanted frame and the frame, once for each, in rising order."""

# Reading past a packet costs microseconds; a seek reads and parses a megabyte anew.
_SEEK_FROM_PACKETS = 200
# Decoders that heed `skip_frame` packet by packet; others ignore it, or read it once when they open.
_SKIPPING_CODECS = frozenset(("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"))


class _LostTrackError(Exception):
    """A seek did not lead where the table says, or a frame did not come out: decode from the start instead."""


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Packets [first, last] to decode, and which of them hold wanted frames: packet to number, in order of showing."""

    first: int
    last: int
    wanted: dict[int, int]


def decode_frames(file: BinaryIO, wanted: Sequence[int], emit: Emit) -> PacketTable:
    """Decode the frames of these numbers (rising, from 0 in order of showing) and give the table of the file's packets.

    Raises MediaError if the file is damaged, or a frame does not exist or does not come out.
    """
    left = list(wanted)

    def emit_next(number: int, frame: VideoFrame) -> None:
        if number != left[0]:
            raise _LostTrackError
        if getattr(frame, "is_corrupt", False):
            raise MediaError(f"frame {number:,} is damaged")
        emit(number, frame)
        del left[0]

    with open_container(file) as (container, stream):
        table = packet_table(container, stream)
        if wanted[-1] >= len(table.frames):
            raise MediaError(f"has {len(table.frames):,} frames; number {wanted[-1]:,} is wanted")
        if table.is_exact:
            with suppress(_LostTrackError):
                _decode_stretches(container, stream, table, left, emit_next, may_seek=True)
    if left and table.is_exact:
        # Program and transport streams have no index: seeks land anywhere. Their packets are passed over instead.
        with open_container(file) as (container, stream), suppress(_LostTrackError):
            _decode_stretches(container, stream, table, left, emit_next, may_seek=False)
    if left:
        with open_container(file) as (container, stream):
            _decode_from_start(container, stream, table, left, emit_next)
    return table


def table_and_key_frame(container: InputContainer, stream: VideoStream) -> tuple[PacketTable, VideoFrame | None]:
    """Read all packets, and decode one frame: that of the first key frame's packet which gives one by itself."""
    frames: list[VideoFrame] = []
    context = stream.codec_context

    def decode_key(packet: Packet) -> None:
        if not frames and packet.is_keyframe:
            frames.extend(context.decode(packet))
            frames.extend(context.decode(None))
            context.flush_buffers()

    table = packet_table(container, stream, decode_key)
    return table, frames[0] if frames else None


def first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    """Decode from the start until a frame comes. Raises MediaError if none does."""
    for frame in container.decode(stream):
        return frame
    raise MediaError("has no frame that can be decoded")


# --- only what is needed ----------------------------------------------------------------------------------------------


def _stretches(table: PacketTable, wanted: Sequence[int]) -> Iterator[_Stretch]:
    """Join wanted frames until a key frame makes it cheaper to start anew; no packet is decoded twice."""
    first = last = -1
    members: dict[int, int] = {}
    for number in wanted:
        packet = int(table.frames[number])
        key = table.key_before(packet)
        if members and key > last:
            yield _Stretch(first=first, last=last, wanted=members)
            members = {}
        if not members:
            first = key
            last = key
        last = max(last, packet)
        members[packet] = number
    yield _Stretch(first=first, last=last, wanted=members)


def _decode_stretches(
    container: InputContainer,
    stream: VideoStream,
    table: PacketTable,
    wanted: Sequence[int],
    emit: Emit,
    *,
    may_seek: bool,
) -> None:
    """Decode stretch after stretch; without `may_seek` the container stands at its start."""
    packets = _sized(container.demux(stream))
    place = -1 if may_seek else 0
    for stretch in _stretches(table, tuple(wanted)):
        if may_seek and (place < 0 or stretch.first - place > _SEEK_FROM_PACKETS):
            packets, place = _sought(container, stream, table, stretch.first)
        # The range comes first: when it ends, no packet of the next stretch has been taken.
        feed = zip(range(place, stretch.last + 1), packets, strict=False)
        _decode_stretch(stream.codec_context, table, stretch, feed, emit)
        place = stretch.last + 1


def _sought(
    container: InputContainer, stream: VideoStream, table: PacketTable, packet: int
) -> tuple[Iterator[Packet], int]:
    """Seek to a packet or before it, and give the packets from there and the first one's place in the table."""
    container.seek(int(table.pts[packet]), stream=stream, backward=True, any_frame=False)
    packets = _sized(container.demux(stream))
    head = next(packets, None)
    places = () if head is None or head.pts is None else (table.pts == head.pts).nonzero()[0].tolist()
    if head is None or not places or places[0] > packet:
        raise _LostTrackError
    return chain((head,), packets), places[0]


def _sized(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Leave out the empty packet that ends a stream."""
    return (packet for packet in packets if packet.size)


def _decode_stretch(
    context: VideoCodecContext,
    table: PacketTable,
    stretch: _Stretch,
    feed: Iterable[tuple[int, Packet]],
    emit: Emit,
) -> None:
    numbers = {int(table.pts[packet]): number for packet, number in stretch.wanted.items()}
    may_skip = context.name in _SKIPPING_CODECS

    def hand_over(frames: Iterable[VideoFrame]) -> None:
        for frame in frames:
            if frame.pts in numbers:
                emit(numbers.pop(frame.pts), frame)

    for place, packet in feed:
        if packet.pts != table.pts[place]:
            raise _LostTrackError
        if place >= stretch.first:
            if may_skip:
                context.skip_frame = "DEFAULT" if place in stretch.wanted else "NONREF"
            hand_over(context.decode(packet))
    if may_skip:
        context.skip_frame = "DEFAULT"
    hand_over(context.decode(None))
    context.flush_buffers()
    if numbers:
        raise _LostTrackError


# --- everything from the start ----------------------------------------------------------------------------------------


def _decode_from_start(
    container: InputContainer, stream: VideoStream, table: PacketTable, wanted: list[int], emit: Emit
) -> None:
    """Decode the whole file up to the last wanted frame, and find frames by time, or by counting."""
    number_of = {int(table.pts[table.frames[number]]): number for number in wanted} if table.is_exact else {}
    numbers = set(wanted)
    try:
        for count, frame in enumerate(container.decode(stream)):
            number = _number(number_of, frame) if table.is_exact else count
            if number in numbers:
                emit(number, frame)
                numbers.remove(number)
                if not numbers:
                    return
    except _LostTrackError:
        raise _not_decoded(table, numbers) from None
    raise _not_decoded(table, numbers)


def _not_decoded(table: PacketTable, numbers: set[int]) -> MediaError:
    return MediaError(f"frame {min(numbers):,} of {len(table.frames):,} does not come out of the decoder: damaged")


def _number(number_of: Mapping[int, int], frame: VideoFrame) -> int:
    return -1 if frame.pts is None else number_of.get(frame.pts, -1)
