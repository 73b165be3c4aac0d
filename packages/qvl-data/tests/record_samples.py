"""Record files for the tests of their readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qvl_data.records.element import Element
from qvl_data.records.record_file import open_record_file


def elements_of(path: Path, data: bytes) -> list[Element]:
    """Write a file and read all of its elements."""
    path.write_bytes(data)
    return list(open_record_file(path).elements())


def conversations(count: int) -> list[dict[str, Any]]:
    """Give records with every kind of character that ends a string or looks like a bracket."""
    return [
        {"id": i, "messages": [{"role": "user", "content": f'"{{[\\ {i}\né😀]}}", '}, {"x": [i, [], {}, None]}]}
        for i in range(count)
    ]


def as_array(records: list[Any], **options: Any) -> bytes:
    return json.dumps(records, **options).encode()


def as_lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
