"""What a weights folder is, found out from what lies in it."""

import os

import pytest
from qvl_core.errors import WeightsError
from qvl_core.weights.hf_folder import HFFolder
from qvl_core.weights.sharded_folder import ShardedFolder
from qvl_core.weights.source import classify_source, open_source


def refused(path) -> str:
    with pytest.raises(WeightsError) as caught:
        classify_source(path)
    return str(caught.value)


def test_tells_the_kinds_apart(make_hf, make_sharded):
    assert classify_source(make_hf()) == "hf"
    sharded = make_sharded()
    assert classify_source(sharded) == "sharded"
    (sharded / "config.json").write_text("{}")
    assert classify_source(sharded) == "sharded"
    (sharded / "state.json").write_text("{}")
    assert classify_source(str(sharded)) == "checkpoint"


def test_opens_either_kind(make_hf, make_sharded):
    assert isinstance(open_source(make_hf()), HFFolder)
    assert isinstance(open_source(make_sharded()), ShardedFolder)


def test_says_why_a_folder_is_none(tmp_path, make_sharded):
    assert "no such folder" in refused(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "is a regular file, not a folder" in refused(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert "is a named pipe" in refused(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("")
    assert "holds neither config.json nor manifest.json" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "step_000200").mkdir()
    assert f"give {tmp_path}/empty/step_000200" in refused(tmp_path / "empty")
    assert "cannot be read" in refused("a\0b")


def test_an_interrupted_write_is_no_checkpoint_even_with_a_config(make_sharded):
    folder = make_sharded()
    (folder / "config.json").write_text("{}")
    (folder / "manifest.json").unlink()
    assert "writing was interrupted" in refused(folder)
    (folder / "rank-pp000-tt000.safetensors").rename(folder / "optimizer-pp000-tt000.safetensors")
    assert "writing was interrupted" in refused(folder)
