"""How the output of a job gets its name: complete or not at all, one job at a time, and nothing else is lost."""

import os
import stat
from pathlib import Path

import pytest
from qvl_convert import run_job as module
from qvl_convert.plan_sharded import plan_sharded
from qvl_convert.run_job import run_job
from qvl_convert.working_folder import working_path
from qvl_core.durable import FolderLock
from qvl_core.errors import OutputError, RunError
from qvl_core.layout import Layout
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.whole_tensors import open_whole_tensors

CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
STAGES = Layout(vision_stages=(2, 0, 0, 0), text_stages=(0, 1, 1, 1), pp=4)
FILES = tuple(rank_file_name(pp, 0) for pp in range(4))

pytestmark = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Copy in one thread: what a test does while bytes are written is done once at a time."""
    monkeypatch.setattr(module, "MOST_THREADS", 1)


@pytest.fixture
def hf(make):
    return make.hf("hf")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def job_of(hf, layout=STAGES):
    return plan_sharded(open_whole_tensors(hf), layout, kind="import", source_revision="x")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("before", ["nothing", "an empty folder"])
def test_the_output_gets_its_name_at_the_end(hf, out, before, monkeypatch):
    if before != "nothing":
        out.mkdir()
    seen = []
    run_job(job_of(hf), out, overwrite=False, advance=lambda count: seen.append(out.exists() and any(out.iterdir())))
    assert not any(seen)
    assert names_in(out) == sorted([*FILES, "config.json", "manifest.json", "tokenizer.json"])


def test_nothing_is_writable_for_everyone_whatever_the_umask(hf, out):
    before = os.umask(0)
    try:
        run_job(job_of(hf), out, overwrite=False, advance=int)
    finally:
        os.umask(before)
    for path in (out, *out.iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o002, path


def test_an_old_folder_is_replaced_as_a_whole(hf, make, out, tmp_path):
    make.sharded("out", CUT)
    (out / "leftover.json").write_text("{}")
    run_job(job_of(hf), out, overwrite=True, advance=int)
    assert open_whole_tensors(out).layout == STAGES
    assert "leftover.json" not in names_in(out)
    assert names_in(tmp_path) == ["hf", "out", "side"]


def test_an_old_folder_stays_until_the_new_one_is_complete(hf, make, out):
    make.sharded("out", CUT)
    before, done = content(out), []

    def advance(count):
        done.append(count)
        if sum(done) > 5000:
            raise RunError("stopped")

    with pytest.raises(RunError, match="stopped"):
        run_job(job_of(hf), out, overwrite=True, advance=advance)
    assert content(out) == before


def die_at(hf, out, monkeypatch, call, count):
    """Convert with --overwrite in another process, which dies without a word at this call of a method of Path."""
    real, calls = getattr(Path, call), []

    def dying(self, *arguments):
        if self in (out, working_path(out)) or self.parent == working_path(out):
            calls.append(self)
            if len(calls) == count:
                os._exit(9)
        return real(self, *arguments)

    process = os.fork()
    if not process:
        try:
            setattr(Path, call, dying)
            run_job(job_of(hf), out, overwrite=True, advance=int)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def test_a_kill_between_the_renames_loses_neither_folder(hf, make, out, monkeypatch):
    make.sharded("out", CUT)
    before = content(out)
    # The first renames the old folder, the second the new one.
    die_at(hf, out, monkeypatch, "rename", 2)
    assert not out.exists()
    # The next run puts the old folder back, whatever it is asked to do.
    with pytest.raises(OutputError, match="exists already"):
        run_job(job_of(hf), out, overwrite=False, advance=int)
    assert content(out) == before
    summary = run_job(job_of(hf), out, overwrite=True, advance=int)
    assert summary.reused_files == 4
    assert open_whole_tensors(out).layout == STAGES
    assert not working_path(out).exists()


def test_a_kill_after_the_renames_does_not_stop_the_next_replacement(hf, make, out, monkeypatch):
    make.sharded("out", CUT)
    die_at(hf, out, monkeypatch, "rmdir", 1)
    assert open_whole_tensors(out).layout == STAGES
    assert working_path(out).exists()
    with pytest.raises(OutputError, match="exists already"):
        run_job(job_of(hf), out, overwrite=False, advance=int)
    run_job(job_of(hf), out, overwrite=True, advance=int)
    assert open_whole_tensors(out).layout == STAGES
    assert not working_path(out).exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_under_the_name_meanwhile_is_not_lost(hf, out, overwrite):
    job = job_of(hf)

    def advance(count):
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("years of work")

    with pytest.raises(OutputError, match=r"exists already|holds neither"):
        run_job(job, out, overwrite=overwrite, advance=advance)
    assert names_in(out) == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    assert run_job(job, out, overwrite=False, advance=int).reused_files == 4


def test_a_target_that_is_refused_under_the_lock_leaves_no_working_folder(hf, make, out, monkeypatch):
    job, calls, real = job_of(hf), [], module.require_target

    def require(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            make.sharded("out", CUT)
        real(*arguments, **options)

    monkeypatch.setattr(module, "require_target", require)
    with pytest.raises(OutputError, match="exists already"):
        run_job(job, out, overwrite=False, advance=int)
    assert not working_path(out).exists()


def test_two_conversions_into_one_folder_exclude_each_other(hf, out):
    def advance(count):
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"):
            run_job(job_of(hf, CUT), out, overwrite=True, advance=int)

    run_job(job_of(hf), out, overwrite=False, advance=advance)
    assert open_whole_tensors(out).layout == STAGES


def test_a_process_that_comes_while_the_working_folder_goes_does_not_stop_it(hf, out, monkeypatch):
    real, others = Path.rmdir, []

    def rmdir(self):
        if self == working_path(out):
            others.append(FolderLock(self).__enter__())
        return real(self)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    run_job(job_of(hf), out, overwrite=False, advance=int)
    monkeypatch.undo()
    (other,) = others
    with pytest.raises(OutputError, match="another process"), FolderLock(working_path(out)):
        pytest.fail("two holders")
    other.__exit__(None, None, None)
