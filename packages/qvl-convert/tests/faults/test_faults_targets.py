"""Outputs that must not be written: refused before anything is touched, and nothing outside the target is changed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def refuses(qvl, check, room):
    """Run a command that has to be refused, and compare everything before and after."""

    def run(*arguments, words=(), **options):
        before = check.snapshot(room)
        check.refused(qvl.run("convert", *arguments, **options), 2, *words)
        assert check.snapshot(room) == before

    return run


def test_a_taken_output_is_refused_and_overwrite_replaces_it(qvl, check, refuses, small, other, work):
    out = shutil.copytree(other, work / "out")
    (out / "tokenizer.model").write_text("old")
    arguments = ("import", "--hf", small.hf, "--out", out, "--tp", "2")
    refuses(*arguments, words=("exists already; nothing is overwritten", "--overwrite"))
    refuses(*arguments, "--plan", words=("exists already",))
    assert qvl.run("convert", *arguments, "--overwrite").code == 0
    assert check.equal(out, small.hf)
    assert not (out / "tokenizer.model").exists()
    check.nothing_but(work, "out")
    # A sharded folder may be replaced as well, an empty one needs no flag.
    assert qvl.run("convert", *arguments, "--overwrite").code == 0
    shutil.rmtree(out)
    out.mkdir()
    assert qvl.run("convert", *arguments).code == 0


SAME = {
    "itself": lambda source: source,
    "with a slash": lambda source: f"{source}/",
    "through ..": lambda source: source / ".." / source.name,
    "through a folder and ..": lambda source: source.parent / "indexed" / ".." / source.name,
    "relative": lambda source: os.path.relpath(source),
    "a link to it": lambda source: linked(source.parent / "link", source),
    "behind a linked parent": lambda source: linked(source.parent.parent / "parent", source.parent) / source.name,
    "inside": lambda source: source / "new",
    "deep inside": lambda source: source / "new" / "deeper",
    "around it": lambda source: source.parent,
    "around it through a link": lambda source: linked(source.parent.parent / "around", source.parent),
}


def linked(link, target):
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("way", SAME)
def test_the_source_is_never_the_output(refuses, small, way):
    for source in (small.sharded, small.hf):
        for name in ("link", "../parent", "../around"):
            (source.parent / name).unlink(missing_ok=True)
        out = SAME[way](source)
        flag = "--sharded" if source == small.sharded else "--hf"
        for more in ((), ("--overwrite",)):
            refuses("export", flag, source, "--out", out, *more)
        # The other way about: the output by its own name, the source by another.
        if way in ("a link to it", "behind a linked parent", "relative", "with a slash", "through .."):
            refuses("export", flag, out, "--out", source, "--overwrite", words=("the source",))


def test_the_folder_of_the_side_files_is_a_source_too(refuses, small, other, room):
    files = shutil.copytree(small.hf, room / "files")
    refuses("export", "--sharded", small.sharded, "--hf-files", files, "--out", files, "--overwrite", words=("source",))


def test_what_the_links_of_the_source_lead_to_is_kept(qvl, check, refuses, small, work):
    """A download cache: the snapshot's files are links to blobs; a chain of links counts with every hop."""
    blobs, snapshot, chain = work / "blobs", work / "snapshot", work / "chain"
    for folder in (blobs, snapshot, chain):
        folder.mkdir()
    for file in small.hf.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("..") / "blobs" / file.name)
        (chain / file.name).symlink_to(snapshot / file.name)
    for source, out in ((snapshot, blobs), (chain, blobs), (chain, snapshot)):
        refuses("import", "--hf", source, "--out", out, "--overwrite", words=("holds the source's file",))
    # A link in the output's own folder may go: what it leads to stays.
    assert qvl.run("convert", "import", "--hf", small.hf, "--out", snapshot, "--overwrite").code == 0
    assert check.equal(blobs, small.hf)


def test_a_link_in_the_output_that_leads_to_the_source_is_kept(refuses, check, small, other, work):
    out = shutil.copytree(other, work / "out")
    (out / "link").symlink_to(small.hf)
    refuses("import", "--hf", out / "link", "--out", out, "--overwrite", words=("contains the source",))


def test_the_source_may_not_lie_where_the_output_would_be_built(refuses, small, work):
    for place in (".out.partial", ".out.partial/out", ".out.partial/replaced"):
        source = shutil.copytree(small.hf, work / place, dirs_exist_ok=True)
        refuses("import", "--hf", source, "--out", work / "out", "--tp", "2", words=(".out.partial",))
        shutil.rmtree(work / ".out.partial")


def test_a_bind_mount_of_the_source_is_the_source(refuses, small, work):
    for name in ("same", "above"):
        (work / name).mkdir()
    made = subprocess.run(["mount", "--bind", str(small.sharded), str(work / "same")], capture_output=True)
    if made.returncode:
        pytest.skip("nothing can be mounted here (needs root)")
    try:
        subprocess.run(["mount", "--bind", str(small.sharded.parent), str(work / "above")], check=True)
        for out in (work / "same", work / "same" / "new", work / "above", work / "above" / "sharded"):
            refuses("export", "--sharded", small.sharded, "--out", out, "--overwrite", words=("the source",))
    finally:
        subprocess.run(["umount", "-l", str(work / "same"), str(work / "above")], check=False)


def test_a_mount_point_is_no_output(refuses, small, work):
    (work / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(work / "disk")], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here (needs root)")
    try:
        refuses("import", "--hf", small.hf, "--out", work / "disk", words=("where a disk is mounted",))
    finally:
        subprocess.run(["umount", "-l", str(work / "disk")], check=True)


NOT_WEIGHTS = {
    "a home": ["notes.txt", "photos/"],
    "a home with a config": ["config.json", "notes.txt"],
    "a web page with a manifest": ["manifest.json", "index.html"],
    "weights beside other folders": ["config.json", "model.safetensors", ".git/"],
    "a run with checkpoints": ["step_00000010/"],
    "training steps of the reference stack": ["latest_checkpointed_iteration.txt", "release/", "iter_0000100/"],
    "only its index": ["latest_checkpointed_iteration.txt", "notes.txt"],
}


@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_overwrite_replaces_weights_only(refuses, small, work, what):
    out = work / "out"
    out.mkdir()
    for name in NOT_WEIGHTS[what]:
        if name.endswith("/"):
            (out / name).mkdir()
            (out / name / "file").write_text("precious")
        else:
            (out / name).write_text("{}")
    for command in (("import", "--hf", small.hf), ("export", "--sharded", small.sharded)):
        refuses(*command, "--out", out, "--overwrite", words=("out",))


def test_outputs_that_are_no_places_for_a_folder(refuses, small, work):
    (work / "file").write_text("precious")
    (work / "circle").symlink_to("circle")
    (work / "nowhere").symlink_to("absent")
    places = [work / "file", work / "file" / "new", work / "circle", work / "circle" / "new", work / "nowhere"]
    places += ["/", ".", "..", work / ("x" * 250), f"{work}/a\nb/../..", "/proc/new", "/dev/null", "/dev/null/new"]
    for out in places:
        refuses("import", "--hf", small.hf, "--out", out, "--overwrite")


def planted(work, what, elsewhere):
    """Put something where a conversion to work/out would write."""
    working = work / ".out.partial"
    if what == "working folder":
        working.symlink_to(elsewhere)
        return
    working.mkdir()
    if what == "unfinished file":
        (working / "out").mkdir()
        (working / "out" / "rank-pp000-tt000.safetensors.unfinished").symlink_to(elsewhere / "file")
    elif what == "nothing of ours":
        (working / "thesis.txt").write_text("precious")
    elif what == "pipe":
        os.mkfifo(working / ".lock")
    else:
        (working / what).symlink_to(elsewhere / "file" if what in (".lock", "journal.jsonl") else elsewhere)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("working folder", 2), (".lock", 2), ("nothing of ours", 2), ("pipe", 2), ("out", 0), ("replaced", 0),
        ("journal.jsonl", 0), ("unfinished file", 0),
    ],
)  # fmt: skip
def test_planted_links_are_not_followed(qvl, check, shared_small, room, work, what, code):
    elsewhere = room / "elsewhere"
    for name in ("out", "replaced"):
        (elsewhere / name).mkdir(parents=True)
        (elsewhere / name / "manifest.json").write_text("precious")
    (elsewhere / "file").write_text("precious")
    planted(work, what, elsewhere)
    before = check.snapshot(elsewhere)
    result = qvl.run("convert", "import", "--hf", shared_small.hf, "--out", work / "out", "--tp", "2")
    assert check.snapshot(elsewhere) == before
    if code:
        check.refused(result, code, ".out.partial")
        assert not (work / "out").exists()
        assert what != "nothing of ours" or (work / ".out.partial" / "thesis.txt").read_text() == "precious"
        return
    assert result.code == 0, result.err
    check.nothing_but(work, "out")
    assert not any(path.is_symlink() for path in (work / "out").rglob("*"))
    assert check.equal(work / "out", shared_small.hf)


def test_a_folder_that_only_looks_like_a_working_folder_is_not_removed(qvl, check, shared_small, work):
    """An output may be called what another output's working folder would be."""
    assert qvl.run("convert", "export", "--sharded", shared_small.sharded, "--out", work / ".out.partial").code == 0
    result = qvl.run("convert", "import", "--hf", shared_small.hf, "--out", work / "out")
    check.refused(result, 2, ".out.partial", "which no conversion put there")
    assert check.equal(work / ".out.partial", shared_small.hf)
