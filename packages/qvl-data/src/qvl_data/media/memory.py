"""What was found out about media files, kept in `data.cache_dir` from run to run.

Keyed by path, size and modification time; only files that passed are in it. It saves time and is never needed: one that
cannot be read or written is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qvl_core.durable import atomic_write
from qvl_core.errors import QvlError

from qvl_data.media.facts import MediaFacts, MediaFile, facts_from_row, facts_to_row

_log = logging.getLogger(__name__)
# Raise when the check, or what counts as a good file, changes: older memories are then ignored.
_VERSION = 2
FileKey = tuple[str, int, int]
"""Path, size in bytes, modification time in ns."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Facts of a file, and whether its pixels were decoded to find truncation."""

    facts: MediaFacts
    decoded: bool


def memory_file(cache_dir: Path, roots: Iterable[Path]) -> Path:
    """Name the memory after the media roots, so that data sets of different folders do not share one file."""
    names = "\n".join(sorted({str(root) for root in roots}))
    return cache_dir / f"media-{hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"


def read_memory(file: Path) -> dict[FileKey, Known]:
    """Give what is remembered; nothing, and a warning, where the file is damaged."""
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != _VERSION:
            return {}
        return {
            (str(path), int(size), int(time)): Known(facts=facts_from_row(row), decoded=bool(decoded))
            for path, size, time, decoded, row in content["media"]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be used (%s); all media are checked again", file, error)
        return {}


def remember(file: Path, found: Iterable[MediaFile], *, decoded: bool) -> None:
    """Add what was found to the memory; facts of an older version of a file give way."""
    old = read_memory(file) if file.exists() else {}
    new = {
        (str(one.path), one.size, one.mtime_ns): Known(facts=one.facts, decoded=decoded or one.kind == "video")
        for one in found
    }
    known = {key: value for key, value in new.items() if not (key in old and old[key].decoded and not value.decoded)}
    ours = {path for path, _, _ in new}
    merged = {key: value for key, value in old.items() if key[0] not in ours or key in new} | known
    if merged != old:
        _write(file, merged)


def _write(file: Path, merged: Mapping[FileKey, Known]) -> None:
    rows = [[*key, value.decoded, facts_to_row(value.facts)] for key, value in merged.items()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps({"version": _VERSION, "media": rows}))
    except (OSError, QvlError) as error:
        _log.warning("%s cannot be written (%s); the next run checks all media again", file, error)
