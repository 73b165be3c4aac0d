"""Durable writes: old or new and never a part, complete folders or none, one writer for a folder."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from qvl_core import disk, durable
from qvl_core.durable import (
    LOCK_NAME,
    FolderLock,
    atomic_write,
    copy_file,
    new_file,
    new_folder,
    remove_folder,
    remove_leftovers,
    require_free,
)
from qvl_core.errors import DiskError, OutputError, WeightsError

HOLD = """
import sys
from pathlib import Path
from qvl_core.durable import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Interrupted(BaseException):
    """Stands for a signal that arrives in the middle of a write."""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(error):
    def raising(*arguments, **options):
        raise error

    return raising


def test_atomic_write_replaces_bytes_and_text(tmp_path):
    path = tmp_path / "x.json"
    atomic_write(path, "é")
    assert path.read_bytes() == b"\xc3\xa9"
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["x.json"]


@pytest.mark.parametrize("call", ["sync", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), Interrupted()])
def test_a_failed_atomic_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call, error):
    path = tmp_path / "x"
    atomic_write(path, b"old")
    monkeypatch.setattr(disk, call, fail(error))
    with pytest.raises((DiskError, Interrupted)):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["x"]


def test_data_is_on_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []
    real_sync, real_rename = os.fsync, disk.rename

    def sync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def rename(old, new):
        calls.append("rename")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(disk, "rename", rename)
    atomic_write(tmp_path / "x", b"data")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (errno.ENOSPC, DiskError, 1),
        (errno.EDQUOT, DiskError, 1),
        (errno.EFBIG, DiskError, 1),
        (errno.EROFS, OutputError, 2),
        (errno.EACCES, OutputError, 2),
    ],
)
def test_disk_errors_fail_the_run_and_wrong_places_are_wrong_input(tmp_path, monkeypatch, code, kind, exit_code):
    monkeypatch.setattr(os, "fsync", fail(OSError(code, os.strerror(code))))
    with pytest.raises(kind, match=os.strerror(code)) as caught:
        atomic_write(tmp_path / "x", b"data")
    assert caught.value.exit_code == exit_code
    assert names_in(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named_by_the_file_that_was_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", fail(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(OutputError) as caught:
        atomic_write(tmp_path / "page.html", b"data", fix="--out FILE")
    (problem,) = caught.value.problems
    assert (problem.where, problem.fix) == (str(tmp_path / "page.html"), "--out FILE")


def test_a_full_disk_says_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DiskError, match=r"No space left on device; [0-9.]+ GiB are free there"):
        atomic_write(tmp_path / "x", b"data")


def test_writing_below_a_file_or_into_an_absent_folder_is_wrong_input(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "absent" / "x"):
        with pytest.raises(OutputError, match="cannot be written"):
            atomic_write(path, b"data")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o000, 0o664)])
def test_the_umask_is_honoured_and_nothing_is_writable_for_everyone(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        atomic_write(tmp_path / "x", b"data")
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) & 0o002 == 0


def test_a_new_file_does_not_replace_one(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(OutputError, match="File exists"), new_file(tmp_path / "x"):
        pytest.fail("the block must not run")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_new_folder_appears_complete(tmp_path):
    target = tmp_path / "parent" / "target"
    with new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "x").write_text("data")
        assert not target.exists()
        assert folder.parent == target.parent
    assert (target / "inner" / "x").read_text() == "data"
    assert names_in(target.parent) == ["target"]


@pytest.mark.parametrize("error", [ValueError("no"), Interrupted()])
def test_a_new_folder_whose_writing_fails_does_not_appear(tmp_path, error):
    def write():
        with new_folder(tmp_path / "target") as folder:
            (folder / "x").write_text("data")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names_in(tmp_path) == []


def test_a_taken_target_is_refused_before_and_after_the_work(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    with new_folder(target) as folder:
        (folder / "mine").write_text("")
    with pytest.raises(OutputError, match="exists already"), new_folder(target):
        pytest.fail("the block must not run")
    late = tmp_path / "late"

    def write():
        with new_folder(late):
            late.mkdir()
            (late / "theirs").write_text("")

    with pytest.raises(OutputError, match="exists already"):
        write()
    assert names_in(late) == ["theirs"]
    assert names_in(tmp_path) == ["late", "target"]


def test_a_symlink_is_no_free_target(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("absent")
    for name in ("link", "dangling"):
        with pytest.raises(OutputError, match="symbolic link"):
            require_free(tmp_path / name)
    require_free(tmp_path / "real")
    require_free(tmp_path / "absent")


def test_a_target_with_a_very_long_name(tmp_path):
    target = tmp_path / ("x" * 255)
    with new_folder(target):
        pass
    atomic_write(tmp_path / ("y" * 255), b"")
    assert target.is_dir()


def test_copies_content_not_links(tmp_path):
    (tmp_path / "real").write_bytes(b"data")
    (tmp_path / "link").symlink_to("real")
    copy_file(tmp_path / "link", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"data"
    assert not (tmp_path / "copy").is_symlink()
    with pytest.raises(WeightsError, match="a folder"):
        copy_file(tmp_path, tmp_path / "other")


def test_removal_takes_the_name_away_first(tmp_path, monkeypatch):
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "x").write_text("")
    monkeypatch.setattr(disk, "unlink", fail(Interrupted()))
    with pytest.raises(Interrupted):
        remove_folder(folder)
    assert not folder.exists()
    monkeypatch.undo()
    assert len(remove_leftovers(tmp_path)) == 1
    assert names_in(tmp_path) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "step_000100").mkdir()
    (tmp_path / ".step_000200.tmp-0123456789ab").mkdir()
    (tmp_path / ".step_000200.tmp-0123456789ab" / "x").write_text("")
    (tmp_path / ".x.json.tmp-0123456789ab").write_text("")
    (tmp_path / "step_000000.trash-01234567").symlink_to("step_000100")
    assert len(remove_leftovers(tmp_path)) == 3
    assert names_in(tmp_path) == ["step_000100"]


def hold(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_with_the_holders_id_and_host(tmp_path):
    with hold(tmp_path) as holder:
        with pytest.raises(OutputError, match=rf"process {holder.pid} on {os.uname().nodename}"), FolderLock(tmp_path):
            pytest.fail("two holders")
        holder.communicate("\n")
    with FolderLock(tmp_path):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path):
    with hold(tmp_path) as holder:
        holder.kill()
    assert (tmp_path / LOCK_NAME).exists()
    with FolderLock(tmp_path):
        pass


def test_two_holders_in_one_process_exclude_each_other(tmp_path):
    folder = tmp_path / "made"
    with FolderLock(folder), pytest.raises(OutputError, match=f"process {os.getpid()}"), FolderLock(folder):
        pytest.fail("two holders")


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.fcntl, "flock", fail(OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(OutputError, match="cannot lock files"), FolderLock(tmp_path):
        pytest.fail("no lock was taken")


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError), FolderLock(tmp_path):
        pytest.fail("no lock was taken")
    assert not (tmp_path / "victim").exists()


def test_a_holder_may_remove_the_folder_with_the_lock(tmp_path):
    folder = tmp_path / "working"
    with FolderLock(folder):
        shutil.rmtree(folder)
    assert not folder.exists()
    with FolderLock(folder):
        assert names_in(folder) == [LOCK_NAME]


def test_the_lock_of_a_removed_folder_is_not_taken_for_that_of_its_successor(tmp_path, monkeypatch):
    """A process that has opened the lock file when its holder removes the folder must not work beside a third one."""
    folder, real, calls = tmp_path / "working", durable.fcntl.flock, []

    def removed_meanwhile(descriptor, operation):
        calls.append(descriptor)
        if len(calls) == 1:
            shutil.rmtree(folder)
        return real(descriptor, operation)

    monkeypatch.setattr(durable.fcntl, "flock", removed_meanwhile)
    with FolderLock(folder):
        monkeypatch.undo()
        assert len(calls) == 2
        with pytest.raises(OutputError, match="another process is writing here"), FolderLock(folder):
            pytest.fail("two holders")


def test_a_lock_file_that_vanishes_before_it_is_opened_is_made_again(tmp_path, monkeypatch):
    folder, real, calls = tmp_path / "working", os.open, []

    def vanishing(path, *arguments, **options):
        if Path(path).name == LOCK_NAME and not calls:
            calls.append(path)
            shutil.rmtree(folder)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", vanishing)
    with FolderLock(folder):
        assert calls
        assert names_in(folder) == [LOCK_NAME]


def test_a_lock_that_was_let_go_names_nobody(tmp_path):
    with FolderLock(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / LOCK_NAME).read_text()
    assert (tmp_path / LOCK_NAME).read_text() == ""


def test_a_full_disk_is_no_matter_of_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "ftruncate", fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DiskError, match="No space left on device"), FolderLock(tmp_path):
        pytest.fail("no lock was taken")


def test_a_place_where_no_folder_can_be_made_is_an_error_and_no_endless_loop():
    with pytest.raises(OutputError, match="No such file or directory"), FolderLock(Path("/proc/new")):
        pytest.fail("no lock was taken")
