"""The files of a recipe, looked at from outside: their first bytes, their times, and what tells two copies apart."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor.row import Row
from qvl_core.cli.terminal import bytes_text
from qvl_core.input_file import printable

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# Clocks of machines that keep time by a server differ by less.
SKEW_S = 60.0
_HEAD = 4096
_SMALL = 1 << 20
# Folders of millions of pictures are not walked.
_ENTRIES = 10_000
_LFS = b"version https://git-lfs"


def check_data(recipe: Recipe) -> Row:
    """Check that each data file begins as records do, and that media folders are not empty; records are not read."""
    if recipe.task != "sft":
        return Row(check="recipe-data", level="skipped", evidence="the recipe trains on nothing")
    files = [(f"data.sources[{index}]", source.path) for index, source in enumerate(recipe.data.sources)]
    if recipe.data.validation and recipe.data.validation.path:
        files.append(("data.validation", recipe.data.validation.path))
    there = [(key, Path(path)) for key, path in files if Path(path).exists()]
    found = [(key, path, _data_fault(path)) for key, path in there]
    faults = [f"{key}: {printable(str(path))} {fault}" for key, path, fault in found if fault]
    for index, source in enumerate(recipe.data.sources):
        root = Path(source.media_root) if source.media_root else None
        if root is not None and root.exists() and not root.is_dir():
            faults.append(f"data.sources[{index}]: {source.media_root} is no folder")
        elif root is not None and root.is_dir() and not any(root.iterdir()):
            faults.append(f"data.sources[{index}]: {source.media_root} is an empty folder")
    if faults:
        fix = "get the files again (Git LFS: git lfs pull), then qvl data check RECIPE"
        if faults[0].endswith(" is no folder"):
            fix = "data.sources.media_root is the folder that the paths in the records start from"
        return Row(check="recipe-data", level="fail", evidence="; ".join(faults), fix=fix)
    if not there:
        return Row(check="recipe-data", level="skipped", evidence="the data files are not there")
    evidence = f"{len(there)} of {len(files)} data file(s) are there and begin as records do"
    evidence += "; `qvl data check RECIPE` reads every record"
    return Row(check="recipe-data", level="ok", evidence=evidence)


def check_times(recipe: Recipe, now: float | None = None) -> Row:
    """Check that no file of the run is from the future: clocks that differ confuse caches and logs."""
    now = time.time() if now is None else now
    ahead = []
    for path in _stated_paths(recipe):
        try:
            lead = path.stat().st_mtime - now
        except OSError:
            continue
        if lead > SKEW_S:
            ahead.append(f"{printable(str(path))} by {lead:.0f} s")
    if ahead:
        evidence = f"changed in the future, by this machine's clock: {', '.join(ahead[:6])}"
        fix = "set the clock of this machine, or of the one that serves the files (ntpd, chronyd)"
        return Row(check="file-times", level="warn", evidence=evidence, fix=fix)
    return Row(check="file-times", level="ok", evidence="no file of the run is from the future")


def identity_rows(recipe: Recipe) -> list[Row]:
    """Give what must be equal on all machines of a run: the resolved recipe, and names and sizes of the weights."""
    rows = [Row(check="recipe-digest", level="ok", evidence=recipe.digest()[:16])]
    folder = Path(recipe.weights.source)
    if not folder.is_dir():
        return [*rows, Row(check="weights-digest", level="skipped", evidence="weights.source is no folder here")]
    digest, files, size = hashlib.sha256(), 0, 0
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        length = path.stat().st_size
        files, size = files + 1, size + length
        digest.update(f"{path.name}\0{length}\0".encode("utf-8", errors="surrogateescape"))
        if path.suffix == ".json" and length <= _SMALL:
            digest.update(path.read_bytes())
    evidence = f"{digest.hexdigest()[:16]} ({files} files, {bytes_text(size)}; names, sizes and JSON files)"
    return [*rows, Row(check="weights-digest", level="ok", evidence=evidence)]


def _data_fault(path: Path) -> str:
    if path.is_dir():
        names = [entry for entry in path.iterdir() if entry.suffix in (".json", ".jsonl", ".parquet")]
        return "" if names else "holds no .json, .jsonl or .parquet file"
    if not path.is_file():
        return "is no regular file"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_LFS):
        return "is a Git LFS pointer, not the data"
    if head.startswith(b"PAR1"):
        return "" if path.stat().st_size > 12 else "is half of a Parquet file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "is empty" if path.stat().st_size <= _HEAD else "begins with nothing but blanks"
    return "" if text[:1] in b"[{" else f"begins with {text[:12]!r}, which begins neither JSON nor Parquet"


def _stated_paths(recipe: Recipe) -> Iterator[Path]:
    """Yield the data files, and what lies in the folder of the weights."""
    for source in recipe.data.sources:
        yield Path(source.path)
    if recipe.eval and recipe.eval.data:
        yield Path(recipe.eval.data)
    weights = Path(recipe.weights.source)
    yield weights
    if weights.is_dir():
        yield from (path for _, path in zip(range(_ENTRIES), weights.iterdir(), strict=False))
