"""Carrying out a job: what an interruption or a failure leaves, and what is used of it again."""

import errno
import json
import os

import pytest
from qvl_convert import run_job as module
from qvl_convert.plan_hf import plan_hf
from qvl_convert.plan_sharded import plan_sharded
from qvl_convert.run_job import run_job
from qvl_convert.working_folder import working_path
from qvl_core import durable
from qvl_core.errors import InputChangedError, RunError, WeightsError
from qvl_core.layout import Layout
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.whole_tensors import open_whole_tensors

SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
STAGES = Layout(vision_stages=(2, 0, 0, 0), text_stages=(0, 1, 1, 1), pp=4)
FILES = tuple(rank_file_name(pp, 0) for pp in range(4))

pytestmark = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Copy in one thread, in order: then what is finished at an interruption is known."""
    monkeypatch.setattr(module, "MOST_THREADS", 1)


@pytest.fixture
def hf(make):
    return make.hf("hf")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def job_of(hf, layout=STAGES):
    return plan_sharded(open_whole_tensors(hf), layout, kind="import", source_revision="x")


def stop_after(count, error):
    """Give an `advance` that raises when so many bytes have been written."""
    done = 0

    def advance(more):
        nonlocal done
        done += more
        if done > count:
            raise error

    return advance


def interrupt(hf, out, files=2, error=None, layout=STAGES):
    """Convert until so many files are finished, and let the error come in the middle of the next."""
    job = job_of(hf, layout)
    whole = sum(file.size - len(file.fixed[0][1]) for file in job.files[:files])
    with pytest.raises(type(error or RunError(""))):
        run_job(job, out, overwrite=False, advance=stop_after(whole + 100, error or RunError("stopped")))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def inodes(folder):
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


@pytest.mark.parametrize("error", [RunError("the disk broke"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_interruption_keeps_finished_files_and_the_next_try_uses_them(hf, out, tmp_path, error):
    interrupt(hf, out, error=error)
    working = working_path(out)
    assert not out.exists()
    assert names_in(working) == [".lock", "journal.jsonl", "out"]
    assert names_in(working / "out") == list(FILES[:2])
    kept = inodes(working / "out")
    written = []
    summary = run_job(job_of(hf), out, overwrite=False, advance=written.append)
    assert (summary.reused_files, summary.files) == (2, 4)
    assert summary.reused_bytes == sum((out / name).stat().st_size for name in FILES[:2])
    assert {name: inodes(out)[name] for name in kept} == kept
    assert not working.exists()
    # Progress counts what was found as well: it ends at the planned sum.
    assert sum(written) == sum(task.size for task in job_of(hf).tasks)
    run_job(job_of(hf), tmp_path / "fresh", overwrite=False, advance=int)
    assert content(out) == content(tmp_path / "fresh")


def _flip_data(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _flip_header(path):
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


def _cut(path):
    os.truncate(path, path.stat().st_size - 1)


def _lengthen(path):
    os.truncate(path, path.stat().st_size + 1)


def _link(path):
    path.rename(path.parents[2] / "moved")
    path.symlink_to(path.parents[2] / "moved")


@pytest.mark.parametrize("damage", [_flip_data, _flip_header, _cut, _lengthen, _link, lambda path: path.unlink()])
def test_a_finished_file_that_is_not_as_recorded_is_copied_again(hf, out, tmp_path, damage):
    interrupt(hf, out)
    damage(working_path(out) / "out" / FILES[0])
    summary = run_job(job_of(hf), out, overwrite=False, advance=int)
    assert summary.reused_files == 1
    run_job(job_of(hf), tmp_path / "fresh", overwrite=False, advance=int)
    assert content(out) == content(tmp_path / "fresh")
    assert not any(path.is_symlink() for path in out.iterdir())


def test_files_that_the_journal_does_not_know_are_removed(hf, out):
    interrupt(hf, out)
    inner = working_path(out) / "out"
    for name in ("manifest.json", f"{FILES[3]}.unfinished", FILES[3], "stranger"):
        (inner / name).write_text("planted")
    assert run_job(job_of(hf), out, overwrite=False, advance=int).reused_files == 2
    assert "stranger" not in names_in(out)
    open_whole_tensors(out)


def test_a_line_that_a_kill_cut_short_costs_its_file_only(hf, out):
    interrupt(hf, out)
    journal = working_path(out) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    interrupt(hf, out, files=3)
    assert len([line for line in journal.read_text().splitlines() if line]) == 4
    assert run_job(job_of(hf), out, overwrite=False, advance=int).reused_files == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job": "other"}\n', "\xff"])
def test_a_journal_of_something_else_is_not_believed(hf, out, text):
    interrupt(hf, out)
    lines = (working_path(out) / "journal.jsonl").read_text().splitlines()
    (working_path(out) / "journal.jsonl").write_text("\n".join([text, *lines[1:]]), encoding="latin-1")
    assert run_job(job_of(hf), out, overwrite=False, advance=int).reused_files == 0


@pytest.mark.parametrize(
    "line", ["7", "null", '{"file": 3}', '{"file": "x", "size": "y", "checksums": {}}', '{"file": "x", "checksums": 3}']
)
def test_a_line_that_is_no_record_is_passed_over(hf, out, line):
    interrupt(hf, out)
    with (working_path(out) / "journal.jsonl").open("a") as file:
        file.write(f"\n{line}")
    assert run_job(job_of(hf), out, overwrite=False, advance=int).reused_files == 2


def test_another_job_starts_anew(hf, out):
    interrupt(hf, out)
    summary = run_job(job_of(hf, CUT), out, overwrite=False, advance=int)
    assert summary.reused_files == 0
    assert open_whole_tensors(out).layout == CUT


def test_a_source_that_was_written_again_starts_anew(hf, out):
    interrupt(hf, out)
    file = hf / "model.safetensors"
    file.write_bytes(file.read_bytes())
    assert run_job(job_of(hf), out, overwrite=False, advance=int).reused_files == 0


def test_with_nothing_finished_nothing_is_kept(hf, out, tmp_path):
    before = names_in(tmp_path)
    interrupt(hf, out, files=0)
    assert names_in(tmp_path) == before


def test_a_source_that_changes_meanwhile_leaves_nothing(hf, out, tmp_path):
    job, before = job_of(hf), names_in(tmp_path)

    def advance(more):
        os.utime(hf / "model.safetensors")

    with pytest.raises(InputChangedError, match="was written or replaced while it was read"):
        run_job(job, out, overwrite=False, advance=advance)
    assert names_in(tmp_path) == before


def test_a_damaged_source_leaves_nothing(make, out, tmp_path):
    sharded = make.sharded("sharded", CUT)
    file = sharded / rank_file_name(1, 1)
    entry = read_header(file).tensors["lm_head.weight"]
    data = bytearray(file.read_bytes())
    data[entry.start] ^= 1
    file.write_bytes(data)
    before = names_in(tmp_path)
    with pytest.raises(WeightsError, match=r"lm_head\.weight\n  is damaged"):
        run_job(job_of(sharded), out, overwrite=False, advance=int)
    assert names_in(tmp_path) == before


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(hf, out, tmp_path, monkeypatch):
    before, usage = names_in(tmp_path), module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match=r"the disk is too full: [\d,]+ bytes .* are needed, 1,000 .* are free"):
        run_job(job_of(hf), out, overwrite=False, advance=lambda count: pytest.fail("something was copied"))
    assert names_in(tmp_path) == before


def test_writes_that_stop_short_are_carried_on(hf, out, tmp_path, monkeypatch):
    run_job(job_of(hf), tmp_path / "fresh", overwrite=False, advance=int)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:700], offset))
    run_job(job_of(hf), out, overwrite=False, advance=int)
    assert content(out) == content(tmp_path / "fresh")


def test_a_disk_that_is_full_when_the_header_is_written_is_an_error(hf, out, monkeypatch):
    """The tensors are there, the header is not: such a file must not get its name."""
    real, header = os.pwrite, job_of(hf).files[0].fixed[0][1]

    def pwrite(descriptor, data, offset):
        if offset == 0 and bytes(data) == header:
            return real(descriptor, data[:100], offset)
        if offset == 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(RunError, match="No space left on device"):
        run_job(job_of(hf), out, overwrite=False, advance=int)
    assert not out.exists()
    monkeypatch.undo()
    run_job(job_of(hf), out, overwrite=False, advance=int)
    open_whole_tensors(out)


def test_a_failure_of_the_side_files_keeps_the_weights(hf, out, monkeypatch):
    job = job_of(hf)
    real = durable.new_file

    def failing(path, **options):
        if path.name == "tokenizer.json":
            raise RunError("the disk broke")
        return real(path, **options)

    monkeypatch.setattr(durable, "new_file", failing)
    with pytest.raises(RunError, match="the disk broke"):
        run_job(job, out, overwrite=False, advance=int)
    monkeypatch.undo()
    assert run_job(job_of(hf), out, overwrite=False, advance=int).reused_files == 4


def test_the_journal_lists_each_file_with_its_checksums(hf, out):
    interrupt(hf, out)
    header, *lines = [line for line in (working_path(out) / "journal.jsonl").read_text().splitlines() if line]
    assert json.loads(header) == {"job": job_of(hf).identity}
    for line, name in zip(lines, FILES[:2], strict=True):
        record = json.loads(line)
        file = working_path(out) / "out" / name
        assert (record["file"], record["size"]) == (name, file.stat().st_size)
        assert set(record["checksums"]) == set(read_header(file).tensors)


def test_an_hf_folder_is_taken_up_again_like_a_sharded_one(make, out, tmp_path):
    sharded = make.sharded("sharded", CUT)

    def job():
        return plan_hf(open_whole_tensors(sharded), sharded, kind="export", naming="classic", max_shard_bytes=9000)

    half = job().size // 2
    with pytest.raises(RunError):
        run_job(job(), out, overwrite=False, advance=stop_after(half, RunError("stopped")))
    assert not out.exists()
    assert run_job(job(), out, overwrite=False, advance=int).reused_files > 0
    run_job(job(), tmp_path / "fresh", overwrite=False, advance=int)
    assert content(out) == content(tmp_path / "fresh")
    (sharded / "tokenizer.json").write_text('{"other": true}')
    with pytest.raises(RunError):
        run_job(job(), tmp_path / "third", overwrite=False, advance=stop_after(half, RunError("stopped")))
    (sharded / "tokenizer.json").write_text('{"another": true}')
    assert run_job(job(), tmp_path / "third", overwrite=False, advance=int).reused_files == 0
