"""Files of records cut into blocks of rows, which is all that streaming knows of them before it starts.

The cut of a file is remembered in `data.cache_dir` by path, size and modification time, with the digest of its bytes:
all ranks of a machine need it, and a file of a terabyte takes a while to read. The memory saves time and is never
needed: one that cannot be read or written is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from qvl_core.durable import atomic_write
from qvl_core.errors import QvlError

from qvl_data.records.element import Block
from qvl_data.records.record_file import RecordFile
from qvl_data.survey.result import Progress

ROWS = 256
"""Rows of a block: enough to read a disk in large pieces, few enough to shuffle well."""
_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CutFile:
    """A file of records, its blocks, and the sha256 of its bytes."""

    file: RecordFile
    blocks: tuple[Block, ...]
    digest: str


def cut(file: RecordFile, *, cache_dir: Path, progress: Progress | None = None) -> CutFile:
    """Cut a file into blocks, or find its cut in the memory. Raises DataError for a file that cannot be cut."""
    status = file.path.stat()
    identity: list[str | int] = [str(file.path.resolve()), status.st_size, status.st_mtime_ns]
    name = hashlib.sha256(json.dumps(identity).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    memory = cache_dir / f"blocks-{name}.json"
    known = _read(memory, identity)
    if known is not None:
        return CutFile(file=file, blocks=known[0], digest=known[1])
    found = CutFile(file=file, blocks=file.blocks(ROWS, progress), digest=file.digest())
    _write(memory, identity, found)
    return found


def first_rows(blocks: Sequence[Block], rows: int | None) -> tuple[Block, ...]:
    """Give the blocks that hold the first `rows` rows, the last of them whole; all if None."""
    kept, count = [], 0
    for block in blocks:
        if rows is not None and count >= rows:
            break
        kept.append(block)
        count += block.rows
    return tuple(kept)


def _read(memory: Path, identity: list[str | int]) -> tuple[tuple[Block, ...], str] | None:
    try:
        content = json.loads(memory.read_bytes())
        if [content["version"], content["rows"], content["file"]] != [_VERSION, ROWS, identity]:
            return None
        names = ("offset", "size", "line", "index", "rows")
        blocks = tuple(Block(**dict(zip(names, map(int, row), strict=True))) for row in content["blocks"])
        return blocks, str(content["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be used (%s); the file is read again", memory, error)
        return None


def _write(memory: Path, identity: list[str | int], found: CutFile) -> None:
    content = {
        "version": _VERSION,
        "rows": ROWS,
        "file": identity,
        "digest": found.digest,
        "blocks": [astuple(block) for block in found.blocks],
    }
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(memory, json.dumps(content))
    except (OSError, QvlError) as error:
        _log.warning("%s cannot be written (%s); the next run reads the file again", memory, error)
