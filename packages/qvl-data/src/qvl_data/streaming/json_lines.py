"""JSON Lines in blocks. Stands in for records.record_file until that is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qvl_core.errors import DataError, Problem

from qvl_data.records.json_records import Element, iterate_elements, read_data_file


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbouring records of a file that are read together; `line` and `index` are those of the first of `rows`."""

    offset: int
    size: int
    line: int
    index: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class JsonLinesFile:
    path: Path

    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def blocks(self, rows: int, progress: Callable[[str, int, int], None] | None = None) -> tuple[Block, ...]:
        if read_data_file(self.path)[:1] == b"[":
            raise DataError(Problem(where=str(self.path), message="a JSON array cannot be streamed"))
        blocks: list[Block] = []
        offset = index = 0
        for line, text in enumerate(self.path.read_bytes().splitlines(keepends=True), 1):
            if text.strip():
                last = blocks[-1] if blocks else None
                if last is None or last.rows == rows:
                    blocks.append(Block(offset=offset, size=len(text), line=line, index=index, rows=1))
                else:
                    blocks[-1] = replace(last, size=offset + len(text) - last.offset, rows=last.rows + 1)
                index += 1
            offset += len(text)
        return tuple(blocks)

    def read_block(self, block: Block) -> list[Element]:
        with self.path.open("rb") as file:
            file.seek(block.offset)
            data = file.read(block.size)
        if data[:1] != b"{":
            data = b"{}" + data
        return [
            replace(element, line=element.line + block.line - 1, index=element.index + block.index)
            for element in iterate_elements(data, self.path)
        ]


def open_record_files(path: Path) -> list[JsonLinesFile]:
    if not path.exists():
        raise DataError(Problem(where=str(path), message="there is no such file or folder"))
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [JsonLinesFile(path=file) for file in files]
