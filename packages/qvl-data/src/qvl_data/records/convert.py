"""Records of any format to a sharegpt file: one pass, memory flat, the file appears whole or not at all."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from qvl_core import disk
from qvl_core.durable import TEMPORARY_MARK, explained, new_file
from qvl_core.errors import DataError, OutputError, Problem
from qvl_core.input_file import kind_of_file, printable

from qvl_data.media.paths import MediaPathError, MediaRoot, refuse_no_path
from qvl_data.records.formats import parse_element
from qvl_data.records.json_lines import Progress
from qvl_data.records.problem_list import ProblemList
from qvl_data.records.record import Record
from qvl_data.records.record_file import RecordFile, open_record_files
from qvl_data.records.writers import RecordWriter, checked_suffix, record_writer, sharegpt_of

if TYPE_CHECKING:
    from qvl_core.recipe.sections.data_sources import TagSection

_REPORT_EVERY = 1000


def convert_records(
    source: Path,
    target: Path,
    *,
    format_name: str,
    tags: TagSection | None = None,
    media_prefix: str = "",
    media_root: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the records of a file or folder to a .json, .jsonl or .parquet file; give their number.

    Media are not looked at, unless `media_root`, the folder that the source's paths start from, is given: then each
    must be there. Raises DataError with everything that is wrong with the records (20 shown, all counted) and
    OutputError for a target that is taken; then nothing is written.
    """
    checked_suffix(target)
    files = open_record_files(source)
    _refuse_target(source, target, files, overwrite)
    if media_root is not None and not media_root.is_dir():
        raise DataError(
            Problem(where=printable(str(media_root)), key="--media-root", message="there is no such folder")
        )
    check = _MediaCheck(media_prefix, MediaRoot(media_root) if media_root is not None else None)
    problems = ProblemList()
    with _replacing(target, overwrite) as file, record_writer(target, file, media_prefix) as writer:
        done = 0
        for record_file in files:
            for element in record_file.elements():
                found = parse_element(element, path=record_file.path, format_name=format_name, tags=tags)
                _take(found, check, writer, problems)
                done += 1
                if progress and done % _REPORT_EVERY == 0:
                    progress("records converted", done, 0)
        if not done:
            raise DataError(Problem(where=printable(str(source)), message="the list is empty: 0 records"))
        problems.raise_if_any(printable(str(source)))
    return done


class _MediaCheck:
    """What is asked of the media paths of a record."""

    def __init__(self, prefix: str, root: MediaRoot | None) -> None:
        self._prefix, self._root = prefix, root

    def problems(self, record: Record) -> tuple[Problem, ...]:
        """Give what is wrong with each path."""
        found = ((medium, self._complaint(medium.written)) for medium in record.media)
        return tuple(
            Problem(where=record.where, key=medium.kind, message=message) for medium, message in found if message
        )

    def _complaint(self, written: str) -> str:
        try:
            if self._prefix:
                refuse_no_path(written)
                if written.startswith("/"):
                    return f"the path {printable(written)!r} is absolute: no prefix can be put before it"
            if self._root is None:
                return ""
            mode = self._root.resolve(written).stat().st_mode
        except MediaPathError as error:
            return str(error)
        except OSError as error:
            return f"{printable(written)!r} cannot be found under the media root: {error.strerror}"
        return "" if stat.S_ISREG(mode) else f"{printable(written)!r} is {kind_of_file(mode)}, not a file"


def _take(found: Record | tuple[Problem, ...], check: _MediaCheck, writer: RecordWriter, problems: ProblemList) -> None:
    """Write a good record while there was no bad one; note what is wrong with another."""
    if isinstance(found, Record):
        wrong = check.problems(found)
        if not wrong:
            try:
                # After the first problem nothing is kept; what else is wrong is still found.
                writer.write(found) if not problems.count else sharegpt_of(found)
            except DataError as error:
                wrong = error.problems
        found = wrong
    problems.extend(found)


def _refuse_target(source: Path, target: Path, files: list[RecordFile], overwrite: bool) -> None:
    """Raise OutputError for a target that is read from, would be read next time, or is there already."""
    where = printable(str(target))
    if source.is_dir() and os.path.realpath(target.parent) == os.path.realpath(source):
        message = "lies in the folder that is read: the next reading of the folder would find each record twice"
        raise OutputError(Problem(where=where, message=message, fix="write it to another folder"))
    for file in files:
        if target.exists() and target.samefile(file.path):
            raise OutputError(Problem(where=where, message="is the file that is read", fix="give another file name"))
    _refuse_taken(target, overwrite)


def _refuse_taken(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target) or (overwrite and target.is_file() and not target.is_symlink()):
        return
    kind = kind_of_file(target.lstat().st_mode) if not target.is_symlink() else "a symbolic link"
    message = f"is {kind}; only a regular file is replaced" if overwrite else "exists already; nothing is overwritten"
    fix = "give another file name" if overwrite else "give another file name, or --overwrite"
    raise OutputError(Problem(where=printable(str(target)), message=message, fix=fix))


@contextmanager
def _replacing(target: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Give a new file that takes the target's name when the block ends well, and vanishes otherwise."""
    temporary = target.with_name(f".{target.name[:60]}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
    with new_file(temporary) as file:
        yield file
    try:
        with explained(target):
            _refuse_taken(target, overwrite)
            disk.rename(temporary, target)
            disk.sync_folder(target.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            disk.unlink(temporary)
        raise
