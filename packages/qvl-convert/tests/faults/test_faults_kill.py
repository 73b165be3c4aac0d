"""Processes that are killed or interrupted: no half checkpoint anywhere, and the same command goes on and ends well."""

import json
import random
import shutil
import signal
import time

import pytest

# Of each kind, half of them by the clock and half of them before a call that changes the disk: 54 in all.
TRIES = 18

# Everything that changes what lies where, and what puts it on the disk.
CALLS = ("os.fsync", "os.unlink", "os.rmdir", "Path.rename", "Path.replace", "Path.unlink", "Path.rmdir", "Path.mkdir")


def command(kind, large, out):
    if kind == "import":
        return ("convert", "import", "--hf", large.hf, "--out", out, "--tp", "2", "--pp", "3", "--json")
    if kind == "reshard":
        return ("convert", "reshard", "--sharded", large.sharded, "--out", out, "--tp", "4", "--pp", "2", "--json")
    return ("convert", "export", "--sharded", large.sharded, "--out", out, "--max-shard-gib", "0.004", "--json")


def finished_files(working):
    """Give what the journal of a killed process lists: file name -> (inode, time)."""
    if not (working / "journal.jsonl").exists():
        return {}
    lines = [line for line in (working / "journal.jsonl").read_text().split("\n")[1:] if line.endswith("}")]
    paths = [working / "out" / json.loads(line)["file"] for line in lines]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.exists()}


def timed(qvl, arguments):
    before = time.monotonic()
    assert qvl.run(*arguments).code == 0
    return time.monotonic() - before


@pytest.mark.parametrize("kind", ["import", "reshard", "export"])
def test_a_kill_at_any_moment_leaves_no_half_checkpoint_and_the_rerun_goes_on(qvl, check, large, work, kind):
    out, working, moments = work / "out", work / ".out.partial", random.Random(f"kill {kind}")
    arguments = command(kind, large, out)
    duration = timed(qvl, arguments)
    shutil.rmtree(out)
    count = qvl.run(*arguments, fault={"calls": CALLS, "when": 10**6}).notes["calls"]
    assert count > 20
    reused = killed = 0
    while killed < TRIES:
        if out.exists():
            shutil.rmtree(out)
        if killed % 2:
            # Spread over all calls, whatever the machine's speed: between the early and the last ones files are done.
            result = qvl.run(*arguments, fault={"calls": CALLS, "when": round(count * killed / TRIES)})
        else:
            result = qvl.interrupted(duration * moments.uniform(0.2, 1), signal.SIGKILL, *arguments)
        if result.code == 0:
            # The machine has become faster.
            assert not killed % 2, "the fault did not fire"
            duration *= 0.95
            continue
        assert result.code == -signal.SIGKILL, result.err
        killed += 1
        for found in check.checkpoints(work):
            assert check.equal(found, large.hf), f"{found} is not complete"
        assert not out.exists() or out in check.checkpoints(work)
        finished = finished_files(working)
        again = qvl.run(*arguments)
        if out.exists() and again.code:
            # The kill came after the last rename.
            check.refused(again, 2, "exists already")
        else:
            assert again.code == 0, again.err
            assert again.json()["reused_files"] == len(finished)
            for name, stamp in finished.items():
                status = (out / name).stat()
                assert (status.st_ino, status.st_mtime_ns) == stamp, f"{name} was written again"
        reused += len(finished)
        check.nothing_but(work, "out")
        assert check.equal(out, large.hf)
    assert reused > 0


def test_a_finished_file_that_was_damaged_meanwhile_is_copied_again(qvl, check, shared_small, work):
    out, working = work / "out", work / ".out.partial"
    arguments = ("convert", "import", "--hf", shared_small.hf, "--out", out, *check.cut, "--json")
    # Killed when the manifest is about to get its name: every file is finished.
    fault = {"calls": ["Path.replace"], "path": "manifest", "when": 1}
    for place in (9, -1):
        assert qvl.run(*arguments, fault=fault).code == -signal.SIGKILL
        names = sorted(finished_files(working))
        assert len(names) == 4
        damaged = working / "out" / names[2]
        content = bytearray(damaged.read_bytes())
        content[place] ^= 4
        damaged.write_bytes(content)
        result = qvl.run(*arguments)
        assert result.code == 0, result.err
        assert result.json()["reused_files"] == 3
        assert check.equal(out, shared_small.hf)
        check.nothing_but(work, "out")
        shutil.rmtree(out)


def test_a_journal_line_that_was_cut_short_costs_one_file_and_spoils_no_other(qvl, check, shared_small, work):
    out, working = work / "out", work / ".out.partial"
    arguments = ("convert", "import", "--hf", shared_small.hf, "--out", out, *check.cut, "--json")
    fault = {"calls": ["Path.replace"], "path": "manifest", "when": 1}
    assert qvl.run(*arguments, fault=fault).code == -signal.SIGKILL
    journal = working / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert qvl.run(*arguments, fault=fault).code == -signal.SIGKILL
    result = qvl.run(*arguments)
    assert result.json()["reused_files"] == 4
    assert check.equal(out, shared_small.hf)


def test_another_job_reuses_nothing(qvl, check, shared_small, work):
    out = work / "out"
    fault = {"calls": ["Path.replace"], "path": "manifest", "when": 1}
    arguments = ("convert", "import", "--hf", shared_small.hf, "--out", out, "--json")
    assert qvl.run(*arguments, *check.cut, fault=fault).code == -signal.SIGKILL
    result = qvl.run(*arguments, "--tp", "4")
    assert result.json()["reused_files"] == 0
    assert check.equal(out, shared_small.hf)
    check.nothing_but(work, "out")


def test_a_kill_at_any_step_of_an_overwrite_never_loses_both(qvl, check, shared_small, other, work):
    out = work / "out"
    arguments = ("convert", "export", "--sharded", shared_small.sharded, "--out", out, "--overwrite")
    when = 0
    while True:
        when += 1
        shutil.copytree(other, out)
        result = qvl.run(*arguments, fault={"calls": CALLS, "when": when})
        found = check.checkpoints(work)
        assert found, f"nothing is left after step {when}"
        assert all(check.equal(path, shared_small.hf) or check.equal(path, other) for path in found), when
        if result.code == 0:
            break
        assert result.code == -signal.SIGKILL, result.err
        again = qvl.run(*arguments)
        assert again.code == 0, (when, again.err)
        check.nothing_but(work, "out")
        assert check.equal(out, shared_small.hf)
        shutil.rmtree(out)
    assert when > 20, "the fault did not fire"


def test_a_killed_overwrite_gives_back_what_was_there(qvl, check, shared_small, other, work):
    """Between the last two renames, even if somebody has made an empty folder in its place."""
    out = work / "out"
    shutil.copytree(other, out)
    arguments = ("convert", "export", "--sharded", shared_small.sharded, "--out", out)
    fault = {"calls": ["Path.rename"], "path": ".partial/out", "when": 2}
    assert qvl.run(*arguments, "--overwrite", fault=fault).code == -signal.SIGKILL
    assert not out.exists()
    out.mkdir()
    check.refused(qvl.run(*arguments), 2, "exists already")
    assert check.equal(out, other)
    result = qvl.run(*arguments, "--overwrite", "--json")
    assert (result.code, result.json()["reused_files"]) == (0, 1), result.err
    assert check.equal(out, shared_small.hf)
    check.nothing_but(work, "out")


def test_something_new_in_place_of_what_was_moved_away_is_kept(qvl, check, shared_small, other, work):
    out = work / "out"
    shutil.copytree(other, out)
    arguments = ("convert", "export", "--sharded", shared_small.sharded, "--out", out, "--overwrite")
    fault = {"calls": ["Path.rename"], "path": ".partial/out", "when": 2}
    assert qvl.run(*arguments, fault=fault).code == -signal.SIGKILL
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    check.refused(qvl.run(*arguments), 2, "an interrupted --overwrite moved away", "replaced")
    assert (out / "mine.txt").read_text() == "mine"
    assert check.equal(work / ".out.partial/replaced", other)
    assert check.equal(work / ".out.partial/out", shared_small.hf)


def test_ctrl_c_says_what_is_kept_and_the_rerun_goes_on(qvl, check, large, work):
    out = work / "out"
    arguments = command("import", large, out)
    # Python's own text: the signal comes in the middle of the copying, whatever the machine's speed.
    text = "import _thread; _thread.interrupt_main()"
    fault = {"calls": ["Path.rename"], "path": "unfinished", "when": 2, "text": text}
    result = qvl.run(*arguments, fault=fault)
    check.refused(result, 130, "finished files are kept", ".out.partial")
    assert result.notes["leaked"] == 0
    assert check.checkpoints(work) == []
    assert not list(work.rglob("*.unfinished"))
    again = qvl.run(*arguments)
    assert again.json()["reused_files"] >= 1
    assert check.equal(out, large.hf)
    check.nothing_but(work, "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_at_any_moment(qvl, check, large, work, number):
    out, working, moments = work / "out", work / ".out.partial", random.Random(f"signal {number}")
    arguments = command("import", large, out)
    duration = timed(qvl, arguments)
    shutil.rmtree(out)
    count = qvl.run(*arguments, fault={"calls": CALLS, "when": 10**6}).notes["calls"]
    shutil.rmtree(out)
    for attempt in range(8):
        if attempt % 2:
            # The process sends itself the signal, before a call that changes the disk; from the start each time.
            shutil.rmtree(working, ignore_errors=True)
            fault = {"calls": CALLS, "when": round(count * attempt / 8), "text": f"os.kill(os.getpid(), {number:d})"}
            result = qvl.run(*arguments, fault=fault)
            assert number == signal.SIGINT or result.code == -number, "the fault did not fire"
        else:
            # Not before it is at work: Python itself is not ready for a signal while it starts.
            delay = duration * moments.uniform(0, 0.7)
            result = qvl.interrupted(delay, number, *arguments, began=working.exists)
        assert result.code in ((130, 0) if number == signal.SIGINT else (-number, 0)), result.err
        if result.code == 130:
            assert "Traceback" not in result.err
        assert all(check.equal(found, large.hf) for found in check.checkpoints(work))
        if out.exists():
            # The signal came too late: the next one needs something to do.
            shutil.rmtree(out)
    assert qvl.run(*arguments).code == 0
    assert check.equal(out, large.hf)
    check.nothing_but(work, "out")


def test_two_interrupts_in_a_row(qvl, check, large, work):
    arguments = command("import", large, work / "out")
    text = "import _thread; _thread.interrupt_main(); import time; time.sleep(0.05); _thread.interrupt_main()"
    fault = {"calls": ["Path.rename"], "path": "unfinished", "when": 1, "text": text}
    result = qvl.run(*arguments, fault=fault)
    assert result.code == 130, result.err
    assert check.checkpoints(work) == []
    assert qvl.run(*arguments).code == 0
    assert check.equal(work / "out", large.hf)
    check.nothing_but(work, "out")
