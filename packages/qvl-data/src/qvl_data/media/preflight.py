"""Check every media file of a data set before a run, each once, and remember what was found.

The memory is a file in `data.cache_dir`, keyed by path, size and modification time; only files that passed are in it.
It saves time and is never needed: one that cannot be read or written is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qvl_core.durable import atomic_write
from qvl_core.errors import QvlError

from qvl_data.media.images import ImageError, ImageFacts, check_image

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_log = logging.getLogger(__name__)
# Raise when the check, or what counts as a good image, changes: older memories are then ignored.
_CACHE_VERSION = 1
_REPORT_EVERY = 50
_Key = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class MediaCheck:
    """What came out: the facts of each good file, the reason for each other, both by real path.

    `to_remember` is what `remember` writes to `cache_file`; None where that holds it already.
    """

    facts: Mapping[Path, ImageFacts]
    errors: Mapping[Path, str]
    cache_file: Path | None = None
    to_remember: Mapping[_Key, ImageFacts] | None = None


def check_media(
    paths: Iterable[Path], *, cache_dir: Path | None, workers: int = 1, progress: Progress | None = None
) -> MediaCheck:
    """Decode each file once (or find it in the memory) and say for each what it is or what is wrong with it.

    Writes nothing: `remember` does, once the caller knows that the run will start.
    """
    unique = sorted(set(paths))
    cache_file = cache_dir / _cache_name(unique) if cache_dir and unique else None
    remembered = _read_cache(cache_file) if cache_file else {}
    facts: dict[Path, ImageFacts] = {}
    errors: dict[Path, str] = {}
    checked: dict[_Key, ImageFacts] = {}

    def check(path: Path) -> tuple[_Key | None, ImageFacts | str]:
        key = _key(path)
        if key is not None and key in remembered:
            return key, remembered[key]
        try:
            return key, check_image(path)
        except ImageError as error:
            return None, str(error)

    pool = ThreadPoolExecutor(max_workers=max(1, min(workers, os.cpu_count() or 1)))
    try:
        for done, (path, (key, found)) in enumerate(zip(unique, pool.map(check, unique), strict=True), 1):
            if isinstance(found, ImageFacts):
                facts[path] = found
                if key is not None:
                    checked[key] = found
            else:
                errors[path] = found
            if progress and (done % _REPORT_EVERY == 0 or done == len(unique)):
                progress("checking images", done, len(unique))
    finally:
        # After Ctrl-C nobody waits for the rest.
        pool.shutdown(wait=True, cancel_futures=True)
    # Files of other data sets in the same folders stay in the memory; files of this one are replaced.
    ours = {str(path) for path in unique}
    kept = {key: found for key, found in remembered.items() if key[0] not in ours} | checked
    is_new = kept.keys() != remembered.keys()
    return MediaCheck(facts=facts, errors=errors, cache_file=cache_file, to_remember=kept if is_new else None)


def remember(media: MediaCheck) -> None:
    """Keep the facts for the next run."""
    if media.cache_file is not None and media.to_remember is not None:
        _write_cache(media.cache_file, media.to_remember)


def _key(path: Path) -> _Key | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_size, status.st_mtime_ns


def _cache_name(paths: list[Path]) -> str:
    """Name the memory after the folders of the files, so that data sets do not overwrite each other's."""
    folders = "\n".join(sorted({str(path.parent) for path in paths}))
    return f"images-{hashlib.sha256(folders.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"


def _read_cache(file: Path) -> dict[_Key, ImageFacts]:
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != _CACHE_VERSION:
            return {}
        return {
            (str(path), int(size), int(time)): ImageFacts(height=int(height), width=int(width), digest=str(digest))
            for path, size, time, height, width, digest in content["images"]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be used (%s); all images are checked again", file, error)
        return {}


def _write_cache(file: Path, checked: Mapping[_Key, ImageFacts]) -> None:
    rows = [[*key, found.height, found.width, found.digest] for key, found in checked.items()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps({"version": _CACHE_VERSION, "images": rows}))
    except (OSError, QvlError) as error:
        _log.warning("%s cannot be written (%s); the next run checks all images again", file, error)
