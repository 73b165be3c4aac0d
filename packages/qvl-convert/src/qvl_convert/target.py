"""Whether a conversion may write where it is told to: never over its source, never over what is not weights."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from qvl_core.durable import TRASH_MARK, explained
from qvl_core.errors import OutputError, Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.weights.source import classify_source

from qvl_convert.mindspeed.folder import LATEST, RELEASE
from qvl_convert.transfer import Job
from qvl_convert.working_folder import SUFFIX, working_path

# Of 255 bytes: the working folder, which is renamed once more when it is removed, has the longer name.
# What checkpoints consist of: weights, configs, tokenizers, templates, model cards.
_CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".txt", ".md", ".jinja", ".model", ".tiktoken")
_CHECKPOINT_NAMES = ("LICENSE", "NOTICE", "README", ".")
_LONGEST_NAME = 255 - len(f".{SUFFIX}{TRASH_MARK}") - 8
# As many as the kernel follows.
_MOST_HOPS = 40


def require_target(out: Path, job: Job, *, overwrite: bool) -> None:
    """Raise OutputError unless the job may write `out`: a new folder, an empty one, or weights to be replaced."""
    require_apart(out, job)
    with explained(out):
        if not os.path.lexists(out):
            existing = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
            if not existing.is_dir():
                message = f"cannot be made: {printable(str(existing))} is not a folder"
                raise OutputError(_problem(out, message, "give another path"))
            return
        if not out.is_dir():
            raise OutputError(_problem(out, "is a file", "give the path of a new folder"))
        if out.is_mount():
            raise OutputError(_problem(out, "is where a disk is mounted", "give the path of a new folder on it"))
        if not any(out.iterdir()):
            return
        if not overwrite:
            fix = "give the path of a new folder, or --overwrite to replace this one"
            raise OutputError(_problem(out, "exists already; nothing is overwritten", fix))
        _require_replaceable(out)


def require_apart(out: Path, job: Job) -> None:
    """Raise OutputError if `out` is no place for a new folder, or overlaps with the source in any way."""
    with explained(out):
        _require_name(out)
        if out.is_symlink():
            fix = "give the path of a new folder, or the path that the link leads to"
            raise OutputError(_problem(out, "is a symbolic link; nothing is written through it", fix))
        try:
            _require_apart(out, job)
        except RuntimeError:
            # What `resolve` raises for it before Python 3.13.
            message = "lies behind symbolic links that lead in a circle"
            raise OutputError(_problem(out, message, "give another path")) from None


def _require_name(out: Path) -> None:
    if out.name in ("", ".."):
        raise OutputError(_problem(out, "is not the name of a new folder", "for example --out ckpt/new"))
    if len(os.fsencode(out.name)) > _LONGEST_NAME:
        message = f"has a name of {len(os.fsencode(out.name))} bytes, {_LONGEST_NAME} are possible"
        raise OutputError(_problem(out, message, "give a shorter name"))


def _require_apart(out: Path, job: Job) -> None:
    target = out.resolve()
    working = working_path(out)
    for source in job.source_paths:
        for place in (source.resolve(), *_hops(source)):
            relation = _relation(target, place)
            if relation is not None:
                fix = "give a folder outside the source: the source is never changed or deleted"
                raise OutputError(_problem(out, f"{relation} the source {printable(str(source))}", fix))
            if _lies_in(place, working):
                message = f"would be built in {printable(str(working))}, where the source {printable(str(source))} lies"
                raise OutputError(_problem(out, message, "give another --out"))
    # The source may consist of links, as in a download cache: what they lead to must not lie in the target either.
    for file in _real_files(job):
        if file.is_relative_to(target) or file.is_relative_to(working):
            where = "holds" if file.is_relative_to(target) else "would be built where there is"
            message = f"{where} the source's file {printable(str(file))}"
            raise OutputError(_problem(out, message, "give a folder that holds nothing of the source"))


def _real_files(job: Job) -> Iterator[Path]:
    for one in job.inputs:
        yield from _hops(one.path)
    for folder in job.source_paths:
        for entry in folder.iterdir():
            yield from _hops(entry)


def _hops(path: Path) -> Iterator[Path]:
    """Give where a path leads: itself, then what the symbolic link there names, and so on."""
    for _ in range(_MOST_HOPS):
        path = path.parent.resolve() / path.name
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()


def _relation(target: Path, place: Path) -> str | None:
    if _same_folder(target, place):
        return "is"
    if _lies_in(target, place):
        return "lies inside"
    if _lies_in(place, target):
        return "contains"
    return None


def _lies_in(path: Path, folder: Path) -> bool:
    return any(_same_folder(parent, folder) for parent in path.parents)


def _same_folder(one: Path, other: Path) -> bool:
    """Tell whether two paths are one folder: a bind mount or a case-insensitive disk shows it under two names."""
    if one == other:
        return True
    try:
        # Asked for without looking first: another process may be about to give its working folder its name.
        return one.samefile(other)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def _require_replaceable(out: Path) -> None:
    folders = {entry.name for entry in out.iterdir() if entry.is_dir() and not entry.is_symlink()}
    if (out / LATEST).is_file() and RELEASE in folders:
        # Weights of the reference stack; folders of training steps beside them are not to be replaced.
        folders.remove(RELEASE)
    else:
        _require_weights(out)
        _require_no_other_files(out)
    if folders:
        message = f"holds other folders as well ({printable(min(folders), 80)} ...); --overwrite would remove them"
        raise OutputError(_problem(out, message, "give the path of a new folder, or move them away"))


def _require_no_other_files(out: Path) -> None:
    """Refuse files that do not belong to a checkpoint: a script or a table of results beside the weights."""
    others = sorted(
        entry.name
        for entry in out.iterdir()
        if not entry.is_dir()
        and not entry.name.lower().endswith(_CHECKPOINT_SUFFIXES)
        and not entry.name.startswith(_CHECKPOINT_NAMES)
    )
    if others:
        message = f"holds {printable(others[0], 80)}, which is no part of a checkpoint; --overwrite would remove it"
        raise OutputError(_problem(out, message, "give the path of a new folder, or move it away"))


def _require_weights(out: Path) -> None:
    try:
        classify_source(out)
        # Many a project has a config.json or a manifest.json.
        if not any(entry.name.endswith(".safetensors") for entry in out.iterdir()):
            raise WeightsError(_problem(out, "holds no weights", ""))
    except WeightsError as error:
        message = f"{error.problems[0].message}; --overwrite replaces weights folders only"
        raise OutputError(_problem(out, message, "give the path of a new folder")) from None


def _problem(out: Path, message: str, fix: str) -> Problem:
    return Problem(where=printable(str(out)), message=message, fix=fix)
