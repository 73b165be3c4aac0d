"""Sources that change while they are read, and two processes that write to one place."""

import random
import shutil
import time

import pytest

CHANGES = {
    "bytes are rewritten": "f = open(PATH, 'r+b'); f.seek(-2, 2); f.write(b'no'); f.close()",
    "the file is replaced": "import shutil; shutil.copy(PATH, PATH + '.new'); os.replace(PATH + '.new', PATH)",
    "the file is shortened": "os.truncate(PATH, 5000)",
    "the file is removed": "os.remove(PATH)",
    "the file becomes a pipe": "os.remove(PATH); os.mkfifo(PATH)",
}
KINDS = {
    "import": ("hf", "model.safetensors", ("convert", "import", "--tp", "2", "--hf")),
    "import of several files": ("indexed", "model-00003-of-00005.safetensors", ("convert", "import", "--hf")),
    "reshard": ("sharded", "rank-pp001-tt001.safetensors", ("convert", "reshard", "--tp", "4", "--sharded")),
    "export": ("sharded", "rank-pp001-tt001.safetensors", ("convert", "export", "--sharded")),
    "the manifest": ("sharded", "manifest.json", ("convert", "export", "--sharded")),
    "a side file": ("hf", "tokenizer.json", ("convert", "import", "--tp", "2", "--hf")),
    "a side file of an export": ("hf", "tokenizer.json", ("convert", "export", "--hf")),
    "the config": ("hf", "config.json", ("convert", "export", "--hf")),
}

SIDE = ("a side file", "a side file of an export", "the config", "the manifest")
SIDE_CHANGES = ("bytes are rewritten", "the file is removed")


def changing(path, change, moment):
    """Make the change at the N-th write."""
    text = CHANGES[change].replace("PATH", repr(str(path)))
    return {"calls": ["os.pwrite"], "when": moment, "text": text}


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, change) for kind in KINDS for change in CHANGES if kind not in SIDE or change in SIDE_CHANGES],
)
def test_a_source_that_changes_is_noticed(qvl, check, small, work, kind, change):
    folder, name, arguments = KINDS[kind]
    source, out = getattr(small, folder), work / "out"
    # The first write after that of the lock, when few files are open, or one in the middle.
    for moment in (2, 40) if kind == "reshard" else (40,):
        kept = shutil.copytree(source, work.parent / f"kept-{moment}")
        result = qvl.run(*arguments, source, "--out", out, fault=changing(source / name, change, moment))
        assert result.notes["fired"], "the fault did not fire"
        check.refused(result, 1, name, "while it was read")
        check.nothing_but(work)
        shutil.rmtree(source)
        kept.rename(source)
    assert qvl.run(*arguments, source, "--out", out).code == 0
    assert check.equal(out, small.hf)


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changes_while_it_is_verified_is_no_difference(qvl, check, small, change):
    fault = {**changing(small.sharded / "rank-pp001-tt001.safetensors", change, 30), "calls": ["os.preadv"]}
    result = qvl.run("convert", "verify", small.hf, small.sharded, fault=fault)
    assert result.notes["fired"]
    check.refused(result, 1, "rank-pp001-tt001.safetensors", "while it was read")
    assert result.out == ""


TRIES = 30


def test_two_processes_for_one_output(qvl, check, large, work):
    """One does the work, the other is told who does, or that it is done.

    Half of the pairs are started 0 to 50 ms apart; in the other half the first waits, at work, for the second's end.
    """
    moments = random.Random("two")
    out, go, named = work / "out", work.parent / "go", 0
    for attempt in range(TRIES):
        kinds = [("import", "--hf", large.hf, "--tp", "2"), ("export", "--sharded", large.sharded)]
        first, second = (("convert", *kind, "--out", out) for kind in (kinds[0], kinds[attempt // 2 % 2]))
        if attempt % 2:
            # The first write of all is that of the lock.
            text = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.001)"
            fault = {"calls": ["os.pwrite"], "when": moments.randint(2, 40), "text": text}
            started = [qvl.start(*first, fault=fault)]
            qvl.until((work / ".out.partial" / "out").exists)
            started.append(qvl.start(*second))
            late = qvl.wait(started[1])
            go.touch()
            results = [qvl.wait(started[0]), late]
            go.unlink()
        else:
            started = [qvl.start(*first)]
            time.sleep(moments.uniform(0, 0.05))
            started.append(qvl.start(*second))
            results = [qvl.wait(one) for one in started]
        losers = [result for result in results if result.code]
        assert len(losers) == 1, [(result.code, result.err) for result in results]
        winner = started[results[0].code != 0][0]
        if "exists already" not in losers[0].err:
            check.refused(losers[0], 2, f"process {winner} on", "another process is writing here")
            named += 1
        check.refused(losers[0], 2, "out")
        check.nothing_but(work, "out")
        assert check.equal(out, large.hf)
        shutil.rmtree(out)
    assert named >= TRIES // 2


def test_a_process_that_finds_the_place_taken_at_the_end_leaves_it(qvl, check, shared_small, work):
    """Somebody who takes no lock puts something there after the work began."""
    out = work / "out"
    arguments = ("convert", "import", "--hf", shared_small.hf, "--out", out)
    text = f"os.mkdir({str(out)!r}); open({str(out / 'mine.txt')!r}, 'w').write('mine')"
    for extra in ([], ["--overwrite"]):
        fault = {"calls": ["Path.replace"], "path": "manifest", "when": 1, "text": text}
        check.refused(qvl.run(*arguments, *extra, fault=fault), 2, "out")
        assert (out / "mine.txt").read_text() == "mine"
        shutil.rmtree(out)
    result = qvl.run(*arguments, "--json")
    assert (result.code, result.json()["reused_files"]) == (0, 1)
    check.nothing_but(work, "out")


def test_a_hundred_bytes_changed_and_the_time_put_back(qvl, check, small, work):
    """The limit of what is noticed: an HF folder has no checksums, so the time of the file is all there is."""
    path = small.hf / "model.safetensors"
    text = f"s = os.stat({str(path)!r}); f = open({str(path)!r}, 'r+b'); f.seek(-5, 2); f.write(b'other'); f.close()"
    text += f"; os.utime({str(path)!r}, ns=(s.st_atime_ns, s.st_mtime_ns))"
    fault = {"calls": ["os.pwrite"], "when": 40, "text": text}
    assert qvl.run("convert", "import", "--hf", small.hf, "--out", work / "out", fault=fault).code == 0
