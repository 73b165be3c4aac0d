"""A survey, kept in `data.cache_dir`: the ranks of a run, and the next run, need not repeat it.

Keyed by everything that it depends on: the bytes of the records and of the checkpoint's tokenizer and processor, and
all settings that a verdict looks at. Media may have changed since: where their paths lead, sizes and times are
compared. It saves time and is never needed: one that cannot be read or written is left alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.durable import atomic_write
from qvl_core.errors import QvlError

from qvl_data.index import MediaTable, SampleTable
from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.records.problem_list import ProblemList
from qvl_data.source_rules import SourceRules
from qvl_data.survey.job import SurveyJob
from qvl_data.survey.result import Counts, Survey, note_from_text

_log = logging.getLogger(__name__)
# Raise when a verdict, a count of tokens or a column changes its meaning.
_VERSION = 3
CHECKPOINT_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json", "config.json", "special_tokens_map.json"),
)
_TEXTS = ("written", "path", "digest")
"""Columns of MediaTable that hold texts."""


def survey_file(job: SurveyJob, file_digests: Sequence[str], cache_dir: Path) -> Path:
    """Name the file that a survey of this job is kept in."""
    settings = asdict(job)
    # Neither says anything about the result.
    del settings["memory"], settings["decode"], settings["shown"]
    total = hashlib.sha256(json.dumps([_VERSION, settings, list(file_digests)], sort_keys=True).encode())
    for name in CHECKPOINT_FILES:
        path = Path(job.checkpoint) / name
        content = path.read_bytes() if path.is_file() else b""
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return cache_dir / f"index-{total.hexdigest()[:32]}.npz"


def read_survey(file: Path, rules: Sequence[SourceRules], *, decode: bool) -> Survey | None:
    """Give the survey that is kept in a file; None where there is none, or where media have changed since."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            found = _from_arrays({name: content[name] for name in content.files}, tuple(rules))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s cannot be used (%s); all records are checked again", file, error)
        return None
    if (decode and not found.decoded) or not _media_are_as_they_were(found.media, rules):
        return None
    return found


def save_survey(file: Path, survey: Survey) -> None:
    """Keep a survey."""
    content = io.BytesIO()
    np.savez(content, **_to_arrays(survey))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, content.getvalue())
    except (OSError, QvlError) as error:
        _log.warning("%s cannot be written (%s); the next run checks all records again", file, error)


def _media_are_as_they_were(media: MediaTable, rules: Sequence[SourceRules]) -> bool:
    """Tell whether each path still leads to the same file, and each file still has its size and time."""
    roots = [MediaRoot(rule.media_root, allow_outside=rule.allow_outside) for rule in rules]
    states = zip(media.size.tolist(), media.mtime_ns.tolist(), strict=True)
    for source, written, path, state in zip(media.source.tolist(), media.written, media.path, states, strict=True):
        try:
            found = roots[source].resolve(written)
            status = found.stat()
        except (OSError, MediaPathError):
            return False
        if (str(found), (status.st_size, status.st_mtime_ns)) != (path, state):
            return False
    return True


def _to_arrays(survey: Survey) -> dict[str, NDArray[Any]]:
    arrays = {f"samples.{field.name}": getattr(survey.samples, field.name) for field in fields(SampleTable)}
    for field in fields(MediaTable):
        column = getattr(survey.media, field.name)
        arrays[f"media.{field.name}"] = _as_bytes(column.tolist()) if field.name in _TEXTS else column
    about = {
        "files": [str(path) for path in survey.files],
        "file_sources": survey.file_sources,
        "counts": [asdict(counts) for counts in survey.counts],
        "notes": [[note.where, note.message] for note in survey.notes],
        "data_hash": survey.data_hash,
        "decoded": survey.decoded,
        "problems": survey.problems.to_json(),
    }
    return {**arrays, "about": _as_bytes(about)}


def _from_arrays(arrays: dict[str, NDArray[Any]], rules: tuple[SourceRules, ...]) -> Survey:
    about = _from_bytes(arrays["about"])
    media: dict[str, NDArray[Any]] = {}
    for field in fields(MediaTable):
        column = arrays[f"media.{field.name}"]
        media[field.name] = np.array(_from_bytes(column), object) if field.name in _TEXTS else column
    return Survey(
        rules=rules,
        files=tuple(Path(path) for path in about["files"]),
        file_sources=tuple(about["file_sources"]),
        samples=SampleTable(**{field.name: arrays[f"samples.{field.name}"] for field in fields(SampleTable)}),
        media=MediaTable(**media),
        counts=tuple(Counts(**counts) for counts in about["counts"]),
        notes=tuple(note_from_text(where, message) for where, message in about["notes"]),
        data_hash=about["data_hash"],
        decoded=about["decoded"],
        problems=ProblemList.from_json(about["problems"]),
    )


def _as_bytes(value: object) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _from_bytes(column: NDArray[Any]) -> Any:
    return json.loads(column.astype(np.uint8).tobytes())
