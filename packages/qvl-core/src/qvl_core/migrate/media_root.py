"""Where the media paths of records start: under `dataset_dir` or in the working directory; the reference tried both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qvl_core.errors import InputError, RecipeError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.migrate.folder import Sheet
from qvl_core.migrate.job import Job, clean_path

# Bytes of a data file in which its first medium is looked for.
_LOOKED = 1 << 16


def settle_media_roots(job: Job, sheet: Sheet) -> None:
    """Give every source, and the validation file, the root at which its first record starts; tell what is not known.

    All have `dataset_dir` before. A validation file that is not there follows the first source.
    """
    sources, validation = job.draft.value("data.sources"), job.draft.value("data.validation") or {}
    if not sources:
        return
    stated = sheet.get("basic_parameters", "dataset_dir")
    where = stated.where if stated else job.draft.rows["data.sources"].where
    root = sources[0]["media_root"]
    columns = [sheet.get("attr", name) for name in ("images", "videos")]
    names = [column.text for column in columns if column and isinstance(column.value, str)]
    files = [*sources, *([validation] if "path" in validation else [])]
    unknown = [file["path"] for file in files if not _starts_at(job, file, names, where)]
    first = sources[0]
    if "path" in validation and unknown[-1:] == [validation["path"]] and first["media_root"] != root:
        unknown.pop()
        validation["media_root"] = first["media_root"]
        text = f'{validation["path"]} tells nothing: media_root = "{first["media_root"]}", as of {first["path"]}'
        job.ledger.remark(where, text)
    if unknown and root != ".":
        those = "" if len(unknown) == len(files) else f", those of {', '.join(unknown)}"
        _tell_of_two_starts(job, where, root, those)
    if stated and isinstance(stated.value, str) and stated.value.strip():
        kept = [key for key, of in (("sources", sources), ("validation", [validation])) if _has(of, root)]
        why = f"data.{kept[0]}.media_root" if kept else "a source has one media_root, and the records start elsewhere"
        job.leave("in_accord" if kept else "no_counterpart", stated, why)


def _tell_of_two_starts(job: Job, where: str, root: str, those: str) -> None:
    """Tell what was taken for files whose records say nothing, and when it is wrong."""
    start = "start at the working directory"
    if not root.startswith("/"):
        start = f"start with {root}/ themselves, as those of llava_instruct_2_mllm_demo_format.py do"
    text = f"media are looked for under {root}{those}; where the records' paths {start}"
    job.ledger.remark(where, f'{text}, set media_root = "."')


def _has(files: Iterable[dict[str, Any]], root: str) -> bool:
    return any(file.get("media_root") == root for file in files)


def _starts_at(job: Job, source: dict[str, Any], names: list[str], where: str) -> bool:
    """Let the first record of a data file that is there say where its media paths start; tell whether it does."""
    medium = first_medium(source["path"], names or ("image", "images", "video", "videos"))
    if not medium:
        return False
    text = f"{source['path']} names {printable(medium[:200])}"
    if medium.startswith("/"):
        if not _lies_under(medium, source["media_root"]):
            fix = "set media_root to the folder above all of them, or allow_outside_media_root = true"
            job.ledger.remark(where, f"{text}: qvl reads absolute paths that lie under media_root: {fix}")
        return True
    found = root_of(medium, source["media_root"])
    if found == "." != source["media_root"]:
        job.ledger.remark(where, f'{text}, which starts at the working directory: media_root = "."')
        source["media_root"] = "."
    return found is not None


def _lies_under(medium: str, root: str) -> bool:
    try:
        return Path(medium).resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def first_medium(path: str, names: Iterable[str]) -> str | None:
    """Give the first path that a data file states under one of these names; None where the file is not there."""
    try:
        with open_regular_file(Path(path), error_type=RecipeError) as file:
            text = file.read(_LOOKED).decode("utf-8", "replace")
    except (InputError, OSError, ValueError):
        return None
    columns = "|".join(re.escape(name) for name in names)
    found = re.search(rf'"(?:{columns})"\s*:\s*\[?\s*("(?:[^"\\\n]|\\.)+")', text)
    try:
        return str(json.loads(found[1])) if found else None
    except ValueError:
        return None


def root_of(medium: str, root: str) -> str | None:
    """Give where a relative path starts: `root`, or "." for the working directory; None where nothing tells."""
    try:
        if (Path(root) / medium).exists():
            return root
        return "." if clean_path(medium).startswith(f"{root}/") or Path(medium).exists() else None
    except (OSError, ValueError):
        return None
