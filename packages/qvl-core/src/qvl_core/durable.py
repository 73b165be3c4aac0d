"""Writing that survives a crash: new files, atomic replacement, folders that appear complete or not at all, locks.

Every durable write of qvl goes through this module, and from here through the operations of `disk`: create, write,
fsync, rename, fsync of the folder. Temporary names lie in the target's own folder, so that the rename never crosses a
file system, and are created exclusively, so that a planted symlink is not followed. A read-only or missing place is an
OutputError, a full or failing disk a DiskError.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from qvl_core import disk
from qvl_core.errors import DiskError, OutputError, Problem, QvlError
from qvl_core.input_file import OUT_OF_RESOURCES, exhausted, open_regular_file, printable

LOCK_NAME = ".lock"
TEMPORARY_MARK = ".tmp-"
TRASH_MARK = ".trash-"

# Never writable for everyone, whatever the umask; the umask takes away more.
FILE_MODE = 0o664
FOLDER_MODE = 0o775
# How long a process that holds a lock may take until it has named itself, in steps of 10 ms.
_NAMING_STEPS = 100
# Others that finish here may take the folder away a few times; where nothing can be made (/proc), it stays away.
_LOCK_ATTEMPTS = 100
_ELSEWHERE = "choose another output folder, or make this one writable"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def atomic_write(path: Path, data: bytes | str, *, fix: str = _ELSEWHERE) -> None:
    """Replace a file's content so that a reader, or a crash, sees the old content or the new, never a part.

    `fix` is what an error advises where the place cannot be written.
    """
    temporary = path.with_name(_temporary_name(path.name))
    with explained(path, fix=fix):
        try:
            with new_file(temporary, named=path, fix=fix) as file:
                file.write(data.encode("utf-8") if isinstance(data, str) else data)
            disk.rename(temporary, path)
            disk.sync_folder(path.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                disk.unlink(temporary)
            raise


@contextmanager
def new_file(path: Path, *, named: Path | None = None, fix: str = _ELSEWHERE) -> Iterator[BinaryIO]:
    """Open a file that must not exist yet, and put it on the disk when the block ends; a failure removes it.

    The folder's entry is not synced: the caller does that once for all files of the folder. Errors name `named`, the
    file that it is to become.
    """
    with explained(named or path, fix=fix):
        descriptor = disk.create(path, FILE_MODE)
        try:
            with disk.buffered(descriptor) as file:
                yield file
                file.flush()
                disk.sync(descriptor)
        except BaseException:
            with suppress(FileNotFoundError):
                disk.unlink(path)
            raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give an empty temporary folder that becomes `target` when the block ends without an error, else vanishes.

    `target` must not exist, or be an empty folder. Files in it have to be synced by their writers (`new_file`,
    `copy_file`). Raises OutputError if the target is taken, before or while the block runs.
    """
    target = target.parent.resolve() / target.name
    require_free(target)
    with explained(target):
        make_folder(target.parent)
        temporary = target.with_name(_temporary_name(target.name))
        disk.make_folder(temporary, FOLDER_MODE)
        try:
            yield temporary
            for folder, _, _ in os.walk(temporary):
                disk.sync_folder(Path(folder))
            rename_folder(temporary, target)
        except BaseException:
            with suppress(OSError):
                remove_tree(temporary)
            raise
        disk.sync_folder(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing, durably, none of them writable for everyone."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        # `Path.mkdir(parents=True)` would give the mode to the last one only.
        try:
            disk.make_folder(folder, FOLDER_MODE)
        except FileExistsError:
            if not folder.is_dir():
                raise
        disk.sync_folder(folder.parent)


def require_free(target: Path) -> None:
    """Raise OutputError unless a folder can be made at `target`: nothing there, or an empty folder."""
    with explained(target):
        if os.path.lexists(target) and not (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
            raise OutputError(_taken(target))


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file's content to a new file, durably; a symlink's target is copied, not the link."""
    with open_regular_file(source) as reader, new_file(target) as writer:
        shutil.copyfileobj(reader, writer, 1024**2)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves nothing under its own name: rename first, then delete.

    Of a link to a folder only the link: what it leads to is somebody else's, an archive perhaps.
    """
    if path.is_symlink():
        with explained(path):
            disk.unlink(path)
            disk.sync_folder(path.parent)
        return
    trash = path.with_name(f"{path.name}{TRASH_MARK}{uuid.uuid4().hex[:8]}")
    with explained(path):
        disk.rename(path, trash)
        disk.sync_folder(path.parent)
        remove_tree(trash)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, where a crash in between does no harm. Raises OSError."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            disk.unlink(Path(folder, name))
        for name in folders:
            # A link to a folder is listed among the folders.
            inner = Path(folder, name)
            (disk.unlink if inner.is_symlink() else disk.remove_empty_folder)(inner)
    disk.remove_empty_folder(path)


def remove_leftovers(folder: Path) -> tuple[str, ...]:
    """Remove the temporary and trash entries that dead runs left in a folder; give their names.

    Call it only while holding the folder's lock: a living writer's temporary entries look the same.
    """
    removed = []
    with explained(folder):
        for entry in sorted(folder.iterdir()):
            if TEMPORARY_MARK in entry.name or TRASH_MARK in entry.name:
                if entry.is_dir() and not entry.is_symlink():
                    remove_tree(entry)
                else:
                    disk.unlink(entry)
                removed.append(entry.name)
    return tuple(removed)


def sync_folder(path: Path) -> None:
    """Put a folder's entries (names of new, renamed and removed files) on the disk."""
    disk.sync_folder(path)


class FolderLock:
    """One writer for a folder: `with FolderLock(folder): ...`. The kernel frees the lock when the process ends.

    Raises OutputError naming the holder's process and host if another process has it. The lock file stays behind;
    it means nothing by itself. A holder may remove the whole folder, lock file included, before it lets go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        path, patience = self._folder / LOCK_NAME, _NAMING_STEPS
        while True:
            descriptor = self._open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                holder = {"pid": os.getpid(), "host": socket.gethostname()}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            except OSError as error:
                found = os.pread(descriptor, 500, 0)
                os.close(descriptor)
                if error.errno == errno.EAGAIN and not found and patience:
                    # The holder has not named itself yet, or is about to let go.
                    patience -= 1
                    time.sleep(0.01)
                    continue
                raise self._refusal(error, found) from None
            if _is_still(path, descriptor):
                self._descriptor = descriptor
                return self
            # The holder before us has removed the folder with the file that we waited for: take the new one.
            os.close(descriptor)

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        attempts = _LOCK_ATTEMPTS
        while True:
            with explained(path):
                try:
                    make_folder(self._folder)
                    descriptor = os.open(path, flags, FILE_MODE)
                except (FileNotFoundError, FileExistsError):
                    attempts -= 1
                    if not attempts or (os.path.lexists(self._folder) and not self._folder.is_dir()):
                        raise
                    # Removed between two calls by a process that has just finished here.
                    continue
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return descriptor
                os.close(descriptor)
                fix = "remove it, or choose another output folder"
                raise OutputError(Problem(where=printable(str(path)), message="is not a regular file", fix=fix))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                # Only so that nobody reads our name in it; what counts is that the file is closed.
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _refusal(self, error: OSError, found: bytes) -> QvlError:
        where = printable(str(self._folder))
        if error.errno in _DISK_ERRORS:
            return DiskError(f"{where}: cannot be written: {error.strerror}{_free_space(self._folder)}")
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            message = f"the file system cannot lock files ({error.strerror})"
            return OutputError(Problem(where=where, message=message, fix="put the output on a local disk"))
        return OutputError(
            Problem(
                where=where,
                message=f"another process is writing here: {_holder(found)}",
                fix="wait until it has ended, or choose another output folder",
            )
        )


@contextmanager
def explained(path: Path, *, fix: str = _ELSEWHERE) -> Iterator[None]:
    """Turn an OSError into an error for people: OutputError for a wrong place, DiskError for a full or broken disk."""
    try:
        yield
    except OSError as error:
        where, reason = printable(str(path)), error.strerror or str(error)
        if error.errno in OUT_OF_RESOURCES:
            raise exhausted(where, error) from error
        if error.errno in _DISK_ERRORS:
            raise DiskError(f"{where}: cannot be written: {reason}{_free_space(path)}") from error
        raise OutputError(Problem(where=where, message=f"cannot be written: {reason}", fix=fix)) from error


def rename_folder(temporary: Path, target: Path) -> None:
    """Give a folder its name. Raises OutputError if something is there; an empty folder may be."""
    try:
        # Renaming onto an existing folder works only if that folder is empty, and is atomic.
        disk.rename(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OutputError(_taken(target)) from None
        raise


def _taken(target: Path) -> Problem:
    kind = "is a symbolic link" if target.is_symlink() else "exists already"
    return Problem(
        where=printable(str(target)), message=f"{kind}; nothing is overwritten", fix="give the path of a new folder"
    )


def _temporary_name(name: str) -> str:
    # The leading part is cut so that the result stays within the 255 bytes of a file name.
    return f".{name[:60]}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}"


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(found: bytes) -> str:
    try:
        holder = json.loads(found)
        return f"process {int(holder['pid'])} on {printable(str(holder['host']), 80)}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not named itself yet"


def _free_space(path: Path) -> str:
    try:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        return f"; {shutil.disk_usage(existing).free / 1024**3:.2f} GiB are free there"
    except (OSError, StopIteration):
        return ""
