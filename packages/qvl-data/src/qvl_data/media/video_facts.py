"""What is known of a video before any frame of it is wanted, and the bounds that every video has to keep.

The bounds are checked from the container's headers and packets, before a frame becomes pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

# FFmpeg's names of the demuxers that may open a file: containers that hold their own packets. Playlists (hls, dash,
# concat, sdp, image sequences) open other files and are not here.
CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg")
MAX_STREAMS = 100
MAX_FRAMES = 2_000_000
MAX_DURATION_S = 48 * 3600.0
# A little over 8K (7680 x 4320).
MAX_FRAME_PIXELS = 8192 * 4608


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What probing found. Height and width are pixels as shown, after rotation; `digest` is sha256 of the file's bytes.

    `frames` counts what a whole decoding gives. `fps` is the container's average rate, 0.0 where nothing tells it (one
    frame, or all at one time). `is_variable`: the frames are not evenly spaced, or not at that rate. `duration_s` is
    the container's, or reaches from the first frame to the end of the last; 0.0 where nothing tells it. `is_counted`:
    the container does not state how many frames it holds.
    """

    height: int
    width: int
    frames: int
    fps: float
    is_variable: bool
    duration_s: float
    digest: str
    is_counted: bool = False
