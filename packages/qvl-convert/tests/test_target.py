"""Where a conversion may write: a new folder, an empty one, weights to be replaced; never the source."""

import pytest
from qvl_convert.plan_hf import plan_hf
from qvl_convert.plan_sharded import plan_sharded
from qvl_convert.target import require_target
from qvl_convert.working_folder import working_path
from qvl_core.errors import OutputError
from qvl_core.layout import Layout
from qvl_core.weights.whole_tensors import open_whole_tensors

CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)

pytestmark = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


@pytest.fixture
def job(make):
    return plan_sharded(open_whole_tensors(make.hf("hf")), CUT, kind="import", source_revision="")


def refused(out, job, match, *, overwrite=True):
    with pytest.raises(OutputError, match=match) as caught:
        require_target(out, job, overwrite=overwrite)
    (problem,) = caught.value.problems
    assert problem.fix


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_or_empty_folder_is_taken(job, tmp_path, overwrite):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/er/new", "hf-other", "hf.bak"):
        require_target(tmp_path / name, job, overwrite=overwrite)


def test_weights_are_replaced_on_request_only(job, make, tmp_path):
    targets = [make.sharded("sharded", CUT), make.checkpoint("checkpoint", CUT), make.hf("other")]
    for target in targets:
        refused(target, job, "exists already; nothing is overwritten", overwrite=False)
        require_target(target, job, overwrite=True)


def test_what_is_not_weights_is_never_replaced(job, make, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.txt").write_text("")
    refused(tmp_path / "project", job, "--overwrite replaces weights folders only")
    (tmp_path / "project" / "config.json").write_text("{}")
    refused(tmp_path / "project", job, "--overwrite replaces weights folders only")
    run = make.hf("run")
    (run / "logs").mkdir()
    refused(run, job, r"holds other folders as well \(logs \.\.\.\)")
    kept = make.hf("kept")
    (kept / "notes.py").write_text("")
    refused(kept, job, "holds notes.py, which is no part of a checkpoint; --overwrite would remove it")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", job, "is a file")
    refused(tmp_path / "file" / "below", job, r"cannot be made: .*file is not a folder")


@pytest.mark.parametrize(
    "place", ["hf", "hf/", "hf/inner", "hf/../hf", ".", "link", "link/inner", "around/hf", "around"]
)
def test_the_source_is_refused_in_every_disguise(job, tmp_path, place):
    (tmp_path / "link").symlink_to("hf")
    (tmp_path / "around").symlink_to(tmp_path)
    refused(tmp_path / place, job, r"the source|symbolic link|not the name")


def test_a_source_that_is_given_as_a_link_is_found_where_it_leads(make, tmp_path):
    hf = make.hf("real")
    (tmp_path / "link").symlink_to(hf)
    job = plan_sharded(open_whole_tensors(tmp_path / "link"), CUT, kind="import", source_revision="")
    refused(hf, job, "is the source")
    refused(tmp_path / "link", job, r"symbolic link|is the source")
    require_target(tmp_path / "new", job, overwrite=True)


def test_the_folder_of_the_side_files_is_a_source_as_well(make, tmp_path):
    source = open_whole_tensors(make.sharded("sharded", CUT))
    job = plan_hf(source, make.side, kind="export", naming="classic", max_shard_bytes=10**9)
    refused(make.side, job, "is the source")
    refused(make.side / "out", job, "lies inside the source")


def test_files_of_the_source_that_lie_in_the_target_are_found(make, tmp_path):
    """A download cache: the folder consists of links, the files lie elsewhere."""
    blobs, cache = make.hf("blobs"), tmp_path / "cache"
    cache.mkdir()
    for path in blobs.iterdir():
        (cache / path.name).symlink_to(path)
    job = plan_sharded(open_whole_tensors(cache), CUT, kind="import", source_revision="")
    refused(blobs, job, "holds the source's file")


def test_a_source_in_the_working_folder_is_not_removed(make, tmp_path):
    out = tmp_path / "out"
    working_path(out).mkdir()
    make.hf("hf").rename(working_path(out) / "hf")
    job = plan_sharded(open_whole_tensors(working_path(out) / "hf"), CUT, kind="import", source_revision="")
    refused(out, job, "would be built in")


def test_names_that_are_none_or_too_long_are_refused(job, tmp_path):
    for name in ("..", "x/.."):
        refused(tmp_path / "deep" / name, job, r"not the name of a new folder|the source")
    refused(tmp_path / ("x" * 250), job, r"has a name of 250 bytes, \d+ are possible")
    refused(tmp_path / ("ä" * 125), job, r"has a name of 250 bytes, \d+ are possible")
    require_target(tmp_path / ("x" * 200), job, overwrite=False)


def test_a_working_folder_that_another_process_renames_meanwhile_is_no_obstacle(job, tmp_path, monkeypatch):
    """Whatever is looked at first, it may be gone at the next call."""
    gone = working_path(tmp_path / "out")
    real = type(tmp_path).exists
    monkeypatch.setattr(type(tmp_path), "exists", lambda path: path == gone or real(path))
    require_target(tmp_path / "out", job, overwrite=False)
