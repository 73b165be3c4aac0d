"""Calls that fail, disks that are full, limits: a clear error, nothing half written, the source as it was."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A multiple of what the small model has: the check of the free space before the work is passed.
LIE = "import shutil; usage = type(shutil.disk_usage('/')); shutil.disk_usage = lambda path: usage(0, 0, 10**15)"
# What changes names and puts them on the disk, tried one after the other; and what moves bytes, of which there are
# several for every tensor: tried at moments spread over the whole run.
NAMES = (
    "os.fsync", "os.unlink", "os.rmdir", "os.ftruncate", "fcntl.flock", "shutil.disk_usage", "Path.rename",
    "Path.replace", "Path.unlink", "Path.rmdir", "Path.mkdir",
)  # fmt: skip
BYTES = ("os.pwrite", "os.preadv", "os.pread", "os.open", "os.write")
MOMENTS = 16


@pytest.fixture(scope="module")
def disk_of(disk):
    """Mount a file system of some size in memory; needs root."""
    mounted = []

    def mount(size, name="mounted"):
        path = disk / name
        path.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True)
        if made.returncode:
            pytest.skip("no file system can be mounted here (needs root)")
        mounted.append(path)
        return path

    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize(("calls", "overwrite"), [(NAMES, True), (BYTES, False)], ids=["names", "bytes"])
def test_whichever_call_fails_the_error_is_clear_and_the_rerun_goes_on(
    qvl, check, shared_small, other, work, calls, overwrite
):
    out, source = work / "out", shared_small.sharded
    arguments = ("convert", "export", "--sharded", source, "--out", out, *(["--overwrite"] if overwrite else []))
    before = check.snapshot(source)

    def attempt(when):
        if overwrite:
            shutil.copytree(other, out)
        error = (errno.EIO, errno.ENOSPC, errno.EMFILE)[when % 3]
        result = qvl.run(*arguments, fault={"calls": calls, "when": when, "error": error})
        assert result.notes["leaked"] == 0, result.notes
        note = (when, result.notes["fired"], result.err)
        if result.code:
            assert result.notes["fired"], note
            check.refused(result, 1 if result.code == 1 else 2)
            assert result.err.strip(), note
            assert check.checkpoints(work) or not overwrite, note
            if out.exists():
                assert check.equal(out, shared_small.hf) or (overwrite and check.equal(out, other)), note
            again = qvl.run(*arguments)
            if again.code:
                # The failure came after the last rename.
                check.refused(again, 2, "exists already")
        check.nothing_but(work, "out")
        assert check.equal(out, shared_small.hf), note
        shutil.rmtree(out)
        return result

    count = attempt(10**6).notes["calls"]
    assert count > 20
    moments = range(1, count + 1) if calls == NAMES else range(1, count + 1, max(1, count // MOMENTS))
    failed = sum(attempt(when).code != 0 for when in moments)
    assert failed > len(moments) // 2
    assert check.snapshot(source) == before


def test_a_file_that_may_not_grow_fails_the_run_and_it_goes_on(qvl, check, shared_small, work):
    out, before = work / "out", check.snapshot(shared_small.hf)
    arguments = ("convert", "import", "--hf", shared_small.hf, "--out", out, *check.cut, "--json")
    for limit in (2_000, 10_000, 20_000):
        result = qvl.run(*arguments, limits={"FSIZE": limit})
        check.refused(result, 1, "cannot be written: File too large", "GiB are free there")
        assert check.checkpoints(work) == []
        assert not list(work.rglob("*.unfinished"))
    assert check.snapshot(shared_small.hf) == before
    assert qvl.run(*arguments).code == 0
    check.nothing_but(work, "out")
    assert check.equal(out, shared_small.hf)


def test_a_disk_that_is_too_small_is_said_before_the_work(qvl, check, large, disk_of):
    parent = disk_of("10m", "too-small")
    before = check.snapshot(large.hf)
    result = qvl.run("convert", "import", "--hf", large.hf, "--out", parent / "out", "--tp", "2")
    check.refused(result, 1, "the disk is too full", "35,", "bytes", "are free", "are needed")
    check.nothing_but(parent)
    assert check.snapshot(large.hf) == before


@pytest.mark.parametrize("size", ["3m", "10m", "20m", "33m"])
def test_a_disk_that_fills_up_fails_the_run_and_it_goes_on(qvl, check, large, disk_of, size):
    parent = disk_of(size, f"fills-{size}")
    arguments = ("convert", "import", "--hf", large.hf, "--out", parent / "out", "--tp", "2", "--pp", "3", "--json")
    result = qvl.run(*arguments, text=LIE)
    check.refused(result, 1, "No space left on device", "GiB are free there")
    assert result.notes["leaked"] == 0
    assert check.checkpoints(parent) == []
    assert not list(parent.rglob("*.unfinished")), "what cannot be used again is kept"
    kept = [path for path in parent.rglob("rank-*") if path.is_file()]
    subprocess.run(["mount", "-o", "remount,size=100m", str(parent)], check=True)
    again = qvl.run(*arguments)
    assert again.json()["reused_files"] == len(kept)
    assert check.equal(parent / "out", large.hf)
    check.nothing_but(parent, "out")


def test_a_disk_that_cannot_be_written_is_wrong_input(qvl, check, shared_small, disk_of):
    parent = disk_of("1m", "read-only")
    subprocess.run(["mount", "-o", "remount,ro", str(parent)], check=True)
    for out in (parent / "out", parent / "new" / "out"):
        result = qvl.run("convert", "import", "--hf", shared_small.hf, "--out", out, *check.cut)
        check.refused(result, 2, "Read-only file system", "choose another output folder")
    check.nothing_but(parent)


def test_too_few_descriptors_fail_the_run_with_the_limit(qvl, check, shared_small, work):
    out = work / "out"
    arguments = ("convert", "import", "--hf", shared_small.hf, "--out", out, "--tp", "4", "--pp", "3", "--json")
    result = qvl.run(*arguments, limits={"NOFILE": 10})
    check.refused(result, 1, "this process may have 10 open files", "fix: ulimit -n 4096")
    assert check.checkpoints(work) == []
    assert qvl.run(*arguments).code == 0
    assert check.equal(out, shared_small.hf)
    check.nothing_but(work, "out")


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_nothing_is_writable_for_everyone(qvl, shared_small, work, mask):
    out = work / "new" / "deeper" / "out"
    assert qvl.run("convert", "import", "--hf", shared_small.hf, "--out", out, "--tp", "2", umask=mask).code == 0
    for path in (work / "new", *(work / "new").rglob("*")):
        assert path.stat().st_mode & (0o002 | mask) == 0, path


@pytest.mark.parametrize("kind", ["import", "reshard", "export"])
def test_memory_does_not_grow_with_the_tensor(qvl, check, disk, room, kind):
    """A matrix of 256 MB, from a file without contents, cut by rows and by columns, under an enforced limit."""
    spec = check.model(hidden=2048, layers=1, vocabulary=64_000)
    source = sparse_hf(room / "source", spec)
    arguments = ("convert", "import", "--hf", source, "--out", room / "a", "--tp", "2", "--json")
    if kind != "import":
        assert qvl.run(*arguments).code == 0
        source, layout = room / "a", ("--tp", "4") if kind == "reshard" else ()
        arguments = ("convert", kind, "--sharded", source, "--out", room / "b", *layout, "--json")
    result = qvl.run(*arguments, limits={"AS": 512 * 1024**2})
    assert result.code == 0, result.err
    assert result.json()["bytes_written"] > 680e6
    assert result.notes["grown_kib"] < 200 * 1024


def sparse_hf(folder, spec):
    """An HF folder of zeros that takes no room: its files are holes."""
    import json

    from qvl_core.params import parameter_table
    from qvl_core.specs import to_hf_config
    from qvl_core.weights.safetensors_writer import TensorShape, outline

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_hf_config(spec)))
    plan = outline([TensorShape(name=row.name, dtype="BF16", shape=row.shape) for row in parameter_table(spec)])
    (folder / "model.safetensors").write_bytes(plan.header)
    os.truncate(folder / "model.safetensors", plan.size)
    return folder


COMMAND = (sys.executable, "-m", "qvl_core.cli", "convert")


def test_a_bare_environment_and_a_name_in_chinese(check, shared_small, work):
    out = work / "模型 é"
    environment = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:backslashreplace"}
    arguments = (*COMMAND, "import", "--hf", shared_small.hf, "--out", out)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert check.equal(out, shared_small.hf)


def test_a_name_that_is_no_text(qvl, check, shared_small, work):
    out = Path(os.fsdecode(os.fsencode(work) + b"/\xff\xfe"))
    for arguments in ([], ["--overwrite", "--json"]):
        result = qvl.run("convert", "import", "--hf", shared_small.hf, "--out", out, *arguments)
        assert result.code == 0, result.err
    assert check.equal(out, shared_small.hf)
    check.refused(qvl.run("convert", "import", "--hf", shared_small.hf, "--out", out), 2, "exists already")


def test_closed_output_and_a_closed_pipe(check, shared_small, work):
    command = [*map(str, COMMAND), "import", "--hf", str(shared_small.hf), "--json", "--out"]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command, str(work / "a")], capture_output=True, text=True)
    reading, writing = os.pipe()
    os.close(reading)
    broken = subprocess.run([*command, str(work / "b")], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in closed.stderr + broken.stderr
    assert (closed.returncode, broken.returncode) == (0, 1), (closed.stderr, broken.stderr)
    # The work itself was done.
    assert check.equal(work / "a", shared_small.hf)
    assert check.equal(work / "b", shared_small.hf)
    check.nothing_but(work, "a", "b")
