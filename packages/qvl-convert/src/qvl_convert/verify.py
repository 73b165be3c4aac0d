"""`qvl convert verify`: compare two folders and say what came out."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import typer
from qvl_core.weights.whole_tensors import open_whole_tensors

from qvl_convert.compare import Comparison, compare_folders
from qvl_convert.progress import byte_progress, duration, gigabytes


def verify_folders(left: Path, right: Path, *, as_json: bool) -> bool:
    """Compare, print the result, and tell whether all bits are equal. Raises WeightsError, RunError."""
    one, other = open_whole_tensors(left), open_whole_tensors(right)
    size = one.size
    if one.optimizer and other.optimizer:
        size += sum(tensor.size for tensor in one.optimizer.values())
    start = time.monotonic()
    with byte_progress("comparing", size) as advance:
        found = compare_folders(one, other, advance)
    seconds = time.monotonic() - start
    if as_json:
        typer.echo(json.dumps(_json(found, seconds)))
    else:
        for note in found.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(_text(found, seconds))
    return found.difference is None


def _text(found: Comparison, seconds: float) -> str:
    if found.difference is not None:
        return f"different: {found.difference.tensor}: {found.difference.message}"
    speed = f"{gigabytes(found.bytes_compared / max(seconds, 1e-9))}/s"
    compared = f"{found.tensors:,} tensors, {found.bytes_compared:,} bytes, bit for bit"
    return f"equal: {compared} ({duration(seconds)}, {speed} of each folder)"


def _json(found: Comparison, seconds: float) -> dict[str, object]:
    return {
        "equal": found.difference is None,
        "tensors": found.tensors,
        "bytes": found.bytes_compared,
        "seconds": seconds,
        "difference": None if found.difference is None else asdict(found.difference),
        "notes": list(found.notes),
    }
