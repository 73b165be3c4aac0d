"""A training whose recipe has `train.log.profile`: the trace is there, and the numbers are those of any training."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_train.report.profile_card import read_operations
from qvl_train.report.run_history import open_runs
from qvl_train.report.run_page import page_body
from whole_runs import losses, train


def test_a_run_profiles_the_steps_that_its_recipe_names_and_computes_the_same(project: Path) -> None:
    settings = ("train.steps=4", "train.save.export_hf=false")
    assert train(*settings, "train.log.profile=[2, 3]") == 0
    assert train(*settings, "output.dir=plain") == 0
    (trace,) = (project / "run" / "profile").glob("rank_000/**/trace_view.json")
    operations = {one.name: one.calls for one in read_operations(trace)}
    # Both steps have the same matrix products, of two micro batches each.
    assert operations["MatMul"] % 4 == 0
    assert losses("run") == losses("plain")
    assert not (project / "plain" / "profile").exists()
    page = page_body(open_runs([project / "run"]))
    assert "<h2>Profile</h2>" in page
    assert "MatMul</td>" in page
