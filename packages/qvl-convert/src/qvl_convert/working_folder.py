"""The folder in which a conversion works until it is complete: locked, resumable, and renamed to the output at the end.

Beside the output `NAME` lies `.NAME.partial` with the lock, `out/` (what becomes `NAME`), `journal.jsonl`, which lists
every finished file with its checksums, and for a moment `replaced/`, what was at `NAME` before. A process that is
killed leaves it; the same command goes on from it. Nothing in it is followed if it is a symbolic link.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType

from qvl_core.durable import (
    LOCK_NAME,
    TEMPORARY_MARK,
    FolderLock,
    atomic_write,
    explained,
    make_folder,
    remove_leftovers,
    rename_folder,
    sync_folder,
)
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import printable
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.safetensors_writer import WrittenFile

from qvl_convert.mindspeed.folder import LATEST

SUFFIX = ".partial"
JOURNAL = "journal.jsonl"
# Without these nobody takes a folder for a checkpoint: they are written last and removed first.
_MARKS = (MANIFEST_NAME, CONFIG_NAME, LATEST)


def working_path(out: Path) -> Path:
    """Give where a conversion to `out` works."""
    # Names that are too long for this are refused before.
    return out.parent.resolve() / f".{out.name}{SUFFIX}"


class WorkingFolder:
    """`with WorkingFolder(out) as working:` holds the lock. Raises OutputError if another process works here.

    Entering settles what a killed process left between its last two renames; leaving removes what is of no use.
    """

    def __init__(self, out: Path) -> None:
        self._target = out.parent.resolve() / out.name
        self._path = working_path(out)
        self._lock = FolderLock(self._path)
        self._journal = self._path / JOURNAL
        self._replaced = self._path / "replaced"
        self.out = self._path / "out"
        self._removed = False

    def __enter__(self) -> WorkingFolder:
        with explained(self._path):
            self._require_own()
            self._lock.__enter__()
            try:
                self._settle()
            except BaseException:
                self._lock.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Once removed, a folder of this name is that of another process, with its lock.
        if not self._removed and self._path.is_dir() and not self._kept():
            self._remove()
        self._lock.__exit__(kind, error, trace)

    def begin(self, identity: str) -> dict[str, WrittenFile]:
        """Prepare for a job and give the files that an earlier try of the same job finished, by name, unverified."""
        finished = self._read_journal(identity)
        with explained(self._path):
            if finished is None:
                self._clear()
                finished = {}
            # Written anew: a line that a kill cut short would spoil the one that comes after it.
            lines = [json.dumps({"job": identity}), *(_line(name, file) for name, file in finished.items())]
            atomic_write(self._journal, "\n".join(lines) + "\n")
            make_folder(self.out)
            self._keep_only(finished)
        return finished

    def record(self, name: str, file: WrittenFile) -> None:
        """Write down that a file is complete, after it is on the disk under its name."""
        with explained(self._journal):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._journal, flags)
            before = os.fstat(descriptor).st_size
            try:
                line = f"{_line(name, file)}\n".encode()
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            except OSError:
                # Half a line, on a disk that is full, would spoil the next one.
                os.ftruncate(descriptor, before)
                raise
            finally:
                os.close(descriptor)

    def keep_recorded(self, identity: str) -> bool:
        """Remove everything but finished files that are written down; tell whether there are any."""
        finished = self._read_journal(identity) or {}
        with explained(self.out):
            self._keep_only(finished)
        return bool(finished)

    def commit(self, *, replace: bool) -> None:
        """Give the complete folder its name. What has that name is removed with `replace`, else an OutputError."""
        with explained(self._target):
            for folder, _, _ in os.walk(self.out):
                sync_folder(Path(folder))
            if replace and os.path.lexists(self._target) and any(self._target.iterdir()):
                self._target.rename(self._replaced)
                sync_folder(self._path)
            try:
                rename_folder(self.out, self._target)
            except BaseException:
                self._restore()
                raise
            sync_folder(self._target.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the working folder. Only while the lock is held: the lock file goes with it."""
        with explained(self._path):
            self._clear()
            self._remove()

    def _require_own(self) -> None:
        """Raise OutputError if there is a folder of this name that is not one of ours: it will be removed."""
        known = {LOCK_NAME, JOURNAL, self._replaced.name, self.out.name}
        where = printable(str(self._path))
        if self._path.is_symlink():
            message = "is a symbolic link, and a conversion to this place would work in it"
            raise OutputError(Problem(where=where, message=message, fix="remove the link, or give another --out"))
        if not self._path.is_dir():
            return
        foreign = [
            entry.name for entry in self._path.iterdir() if entry.name not in known and TEMPORARY_MARK not in entry.name
        ]
        if foreign:
            message = f"holds {printable(min(foreign), 80)}, which no conversion put there, and one would work there"
            raise OutputError(Problem(where=where, message=message, fix="move it away, or give another --out"))

    def _settle(self) -> None:
        """Finish, or take back, the last step of a process that was killed."""
        for path in (self._journal, self._replaced, self.out):
            if path.is_symlink():
                path.unlink()
        free = not os.path.lexists(self._target) or (_is_folder(self._target) and not any(self._target.iterdir()))
        if self._replaced.exists():
            if free:
                self._restore()
            elif self.out.exists() or not _is_folder(self._target):
                message = "holds what an interrupted --overwrite moved away, and there is something new in its place"
                fix = f"move it away, or remove {printable(str(self._target))}"
                raise OutputError(Problem(where=printable(str(self._replaced)), message=message, fix=fix))
        if not free and not self.out.exists():
            # It had given the folder its name, and was about to clear up.
            self._clear()

    def _restore(self) -> None:
        """Put back what was to be replaced."""
        if self._replaced.exists():
            self._replaced.rename(self._target)
            sync_folder(self._target.parent)

    def _kept(self) -> bool:
        return any(path.exists() for path in (self._journal, self._replaced, self.out))

    def _remove(self) -> None:
        remove_leftovers(self._path)
        self._removed = True
        (self._path / LOCK_NAME).unlink(missing_ok=True)
        try:
            self._path.rmdir()
        except OSError as error:
            # Another process has just put its lock there: it clears up itself.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def _clear(self) -> None:
        # The journal first: what it lists must be there.
        self._journal.unlink(missing_ok=True)
        for path in (self.out, self._replaced):
            if path.exists():
                for mark in _MARKS:
                    (path / mark).unlink(missing_ok=True)
                shutil.rmtree(path)

    def _keep_only(self, finished: Collection[str]) -> None:
        for path in sorted(self.out.rglob("*"), key=lambda path: path.name not in _MARKS):
            if path.is_symlink() or (not path.is_dir() and str(path.relative_to(self.out)) not in finished):
                path.unlink()

    def _read_journal(self, identity: str) -> dict[str, WrittenFile] | None:
        try:
            lines = self._journal.read_text(encoding="utf-8").splitlines()
            if not lines or json.loads(lines[0]) != {"job": identity}:
                return None
        except (OSError, ValueError):
            return None
        finished = {}
        for line in lines[1:]:
            try:
                fields = json.loads(line)
                checksums: Mapping[str, str] = dict(fields["checksums"])
                path = self.out / fields["file"]
                finished[str(fields["file"])] = WrittenFile(file=path, size=int(fields["size"]), checksums=checksums)
            except (ValueError, KeyError, TypeError):
                # The last line of a process that was killed while it wrote: that file is copied again.
                break
        return finished


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _line(name: str, file: WrittenFile) -> str:
    return json.dumps({"file": name, "size": file.size, "checksums": dict(file.checksums)})
