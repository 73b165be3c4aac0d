"""Check media files, each once, with what earlier runs have found out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qvl_data.media.error import MediaError
from qvl_data.media.facts import MediaFacts, MediaFile
from qvl_data.media.images import check_image
from qvl_data.media.memory import FileKey, Known
from qvl_data.media.video import probe_video
from qvl_data.records.record import MediaKind


class MissingMediaError(MediaError):
    """There is no such file."""


class MediaChecker:
    """Says of a file what it is, or raises MediaError.

    `decode`: images are decoded, so that truncated ones are found; else their header is read. Of videos only the
    container is read. Both kinds are hashed whole. At most `kept` answers are held, so that memory stays flat.
    """

    def __init__(
        self,
        *,
        decode: bool,
        video_timeout_s: float,
        memory: Mapping[FileKey, Known] | None = None,
        kept: int = 100_000,
    ) -> None:
        self._decode = decode
        self._timeout_s = video_timeout_s
        self._memory = memory or {}
        self._kept = kept
        self._seen: dict[tuple[MediaKind, Path], MediaFacts | MediaError] = {}

    def check(self, kind: MediaKind, written: str, path: Path) -> MediaFile:
        """Give the checked file. Raises MissingMediaError, MediaError."""
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingMediaError("there is no such file") from None
        except OSError as error:
            raise MediaError(f"cannot be opened: {error.strerror}") from None
        found = self._seen.get((kind, path))
        if found is None:
            found = self._look(kind, path, (str(path), status.st_size, status.st_mtime_ns))
            if len(self._seen) >= self._kept:
                self._seen.clear()
            self._seen[kind, path] = found
        if isinstance(found, MediaError):
            raise found
        return MediaFile(
            kind=kind, written=written, path=path, facts=found, size=status.st_size, mtime_ns=status.st_mtime_ns
        )

    def _look(self, kind: MediaKind, path: Path, key: FileKey) -> MediaFacts | MediaError:
        known = self._memory.get(key)
        wanted = "ImageFacts" if kind == "image" else "VideoFacts"
        if known is not None and type(known.facts).__name__ == wanted and (known.decoded or not self._decode):
            return known.facts
        try:
            if kind == "image":
                return check_image(path, decode=self._decode)
            return probe_video(path, timeout_s=self._timeout_s)
        except MediaError as error:
            return error
