"""Lengths of a recipe's samples, kept in `data.cache_dir` by `qvl data check` and by runs, taken by `qvl plan`.

One JSON file for each set of settings that lengths depend on: lengths-<hash of the settings>.json. It holds the
settings, the size, time and sha256 of every file of records and of the checkpoint's tokenizer and template, the sizes
of media files, and the figures. It is good as long as all of these are as they were. Of media, of which there may be a
million, 256 spread over all are kept: that many are looked at in a hundredth of a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.durable import atomic_write
from qvl_core.errors import DataError, QvlError
from qvl_core.json_file import read_json_object

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

_log = logging.getLogger(__name__)
# Raise when a figure or a setting changes its meaning.
SCHEMA = 1
_PIECE = 1 << 20
# Media files that are looked at again.
MOST_MEDIA = 256
# Of [data], what the tokens of a sample, or which samples there are, depend on.
_SETTINGS = (
    *("sources", "validation", "sequence_length", "too_long", "image", "video", "loss_on", "grounding"),
    *("on_bad_sample",),
)


@dataclass(frozen=True, kw_only=True)
class KeptLengths:
    """What was found: `values` as in a report of `qvl data check`, from `file`; None with a `note` that says why not.

    Without a note nothing was kept of these files. Of `media` files `looked_at` have the size that they had.
    """

    values: Mapping[str, Any] | None = None
    media: int = 0
    looked_at: int = 0
    file: Path | None = None
    note: str = ""


def keep_lengths(
    recipe: Recipe, files: Iterable[Path], values: Mapping[str, Any], media: Sequence[tuple[str, int]] = ()
) -> Path | None:
    """Keep the figures of a recipe's data; `files` are those that they were counted from. None if they cannot be kept.

    `media` are paths and bytes of the media files, of which some are kept, spread over all. Lengths that are kept save
    time and are never needed: what cannot be written is left, with a warning.
    """
    settings = _settings(recipe)
    target = _file(recipe, settings)
    named = sorted(dict(media).items())
    spread = {named[i * (len(named) - 1) // (MOST_MEDIA - 1)] for i in range(MOST_MEDIA)} if named else set()
    content = {
        "schema": SCHEMA,
        "settings": settings,
        "files": {str(path.resolve()): _stamp(path) for path in (*files, *_folders(recipe))},
        "media": {"count": len(named), "bytes": {str(Path(path).resolve()): size for path, size in sorted(spread)}},
        "values": values,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    except (OSError, QvlError) as error:
        _log.warning("%s cannot be written (%s); qvl plan will assume the lengths", target, error)
        return None
    return target


def find_lengths(recipe: Recipe) -> KeptLengths:
    """Give the figures that are kept of a recipe's data, if they still hold."""
    settings = _settings(recipe)
    target = _file(recipe, settings)
    content = _read(target)
    if content is None:
        return KeptLengths(note=_of_other_settings(target.parent, settings))
    # What earlier versions kept has no media.
    media = content.get("media", {"count": 0, "bytes": {}})
    changed = [path for path, stamp in content["files"].items() if not _is_as_it_was(Path(path), stamp)]
    changed += [path for path, size in media["bytes"].items() if _bytes(Path(path)) != size]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return KeptLengths(note=f"{target} is stale: {changed[0]}{more} has changed since")
    return KeptLengths(values=content["values"], file=target, media=int(media["count"]), looked_at=len(media["bytes"]))


def length_settings(recipe: Recipe) -> dict[str, Any]:
    """Give what lengths depend on beside the bytes of files, as values that JSON has; paths as the recipe has them."""
    data = recipe.data.model_dump(mode="json", include=set(_SETTINGS))
    validation, train = recipe.data.validation, recipe.train
    # What is held out by a fraction is drawn with the seed.
    is_drawn = validation is not None and validation.fraction is not None
    data["seed"] = train.seed if train is not None and is_drawn else None
    return {"model": recipe.spec.name, **data}


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Give the same with the paths of this machine: a file that is kept may be found from any folder."""
    settings = length_settings(recipe)
    for source in (*settings["sources"], *([settings["validation"]] if settings["validation"] else [])):
        for key in ("path", "media_root"):
            if source.get(key):
                source[key] = str(Path(source[key]).resolve())
    return {**settings, "weights": str(Path(recipe.weights.source).resolve())}


def _file(recipe: Recipe, settings: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps([SCHEMA, settings], sort_keys=True).encode()).hexdigest()[:32]
    return Path(recipe.data.cache_dir) / f"lengths-{key}.json"


def _read(file: Path) -> dict[str, Any] | None:
    """Give the content of a file of ours; None where there is none, or one that is broken or of another version."""
    if not file.is_file():
        return None
    try:
        content = read_json_object(file, error_type=DataError)
    except DataError as error:
        _log.warning("%s cannot be used: %s", file, error)
        return None
    is_whole = all(isinstance(content.get(key), dict) for key in ("settings", "files", "values"))
    media = content.get("media", {"count": 0, "bytes": {}})
    is_whole = is_whole and isinstance(media, dict) and isinstance(media.get("count"), int)
    is_whole = is_whole and isinstance(media.get("bytes"), dict)
    return content if is_whole and content.get("schema") == SCHEMA else None


def _of_other_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """Say by what the settings differ from those that the same records were last looked at with; else nothing."""
    paths = [source["path"] for source in settings["sources"]]
    dated = sorted(folder.glob("lengths-*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in dated if paths else ():
        content = _read(file)
        if content is None:
            continue
        sources = content["settings"].get("sources")
        if [source.get("path") for source in sources or () if isinstance(source, dict)] != paths:
            continue
        differing = sorted(key for key in settings if settings[key] != content["settings"].get(key))
        if differing:
            return f"{file} is of these records, but other settings: {', '.join(differing)}"
    return ""


def _folders(recipe: Recipe) -> list[Path]:
    """List the sources that are folders: another file in one is more samples."""
    return [Path(source.path) for source in recipe.data.sources if Path(source.path).is_dir()]


def _stamp(path: Path) -> dict[str, Any]:
    """Give size, time and digest of a file; of a folder the digest of its records' names; 0 where there is nothing."""
    try:
        state = path.stat()
        if path.is_dir():
            return {"bytes": 0, "mtime_ns": 0, "sha256": _names(path)}
        return {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": _digest(path)}
    except OSError:
        return {"bytes": 0, "mtime_ns": 0, "sha256": ""}


def _is_as_it_was(path: Path, stamp: Any) -> bool:
    """Tell whether a file has its size and time, or at least its size and its bytes."""
    if not isinstance(stamp, dict):
        return False
    try:
        state = path.stat()
    except OSError:
        return not stamp.get("sha256")
    if path.is_dir():
        return bool(stamp.get("sha256") == _names(path))
    if stamp.get("bytes") != state.st_size:
        return False
    return stamp.get("mtime_ns") == state.st_mtime_ns or _stamp(path)["sha256"] == stamp.get("sha256")


def _bytes(path: Path) -> int:
    """Give the size of a file, 0 where there is none. Another picture has another size, or as many pixels."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total.update(piece)
    return total.hexdigest()


def _names(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".jsonl", ".parquet"))
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
