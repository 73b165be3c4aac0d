"""Kept vision features in several ranks: in threads, as in test_other_layouts.py. Equal to the bit to the same layout
without them, and between layouts whose replicas see the same batches.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.errors import QvlError
from qvl_core.feature_store import FeatureStore
from qvl_train import vision_cache
from test_other_layouts import run, without_signals  # noqa: F401 - the fixture is used by its name
from test_vision_cache import CACHED, FROZEN, STEPS, mixed, validations  # noqa: F401
from whole_runs import losses

LAYOUTS = {
    "both on the first stage": ("layout.pp=2", "layout.vision_stages=[2,0]", "layout.text_stages=[1,1]"),
    "text begins behind vision": ("layout.pp=2", "layout.vision_stages=[2,0]", "layout.text_stages=[0,2]"),
    "vision on two stages": ("layout.pp=3", "layout.vision_stages=[1,1,0]", "layout.text_stages=[0,1,1]"),
    "two replicas": ("layout.dp=2",),
    "two replicas of two stages": (
        *("layout.dp=2", "layout.zero1=true", "layout.pp=2"),
        *("layout.vision_stages=[2,0]", "layout.text_stages=[0,2]"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_trains_the_same_with_and_without_kept_features(mixed: Path, layout: str) -> None:  # noqa: F811
    settings = (*FROZEN, *LAYOUTS[layout])
    run("one", *settings)
    run("one", *settings, *CACHED)
    assert len(losses()) == STEPS
    assert losses("cached") == losses()
    assert validations("cached") == validations() != []
    assert list((mixed / "cache").rglob("*.features"))


def test_each_machine_keeps_all_that_its_replicas_read(
    mixed: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Every rank a machine of its own; two of them hold the stages that place features, one of each replica.
    monkeypatch.setattr(vision_cache.socket, "gethostname", lambda: threading.current_thread().name)
    written: list[str] = []
    write = FeatureStore.write
    monkeypatch.setattr(FeatureStore, "write", lambda self, key, *rest: (written.append(key), write(self, key, *rest)))
    run("one", *FROZEN, *LAYOUTS["two replicas of two stages"], "train.steps=1", *CACHED)
    count = len(set(written))
    assert sorted(written) == sorted([*set(written), *set(written)])
    said = capsys.readouterr().out
    assert said.count(f"{count} images and videos, 0 of them known; {count} to compute") == 2


def test_replicas_of_one_machine_share_the_work(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    written: list[str] = []
    write = FeatureStore.write
    monkeypatch.setattr(FeatureStore, "write", lambda self, key, *rest: (written.append(key), write(self, key, *rest)))
    run("one", *FROZEN, *LAYOUTS["two replicas"], "train.steps=1", *CACHED)
    assert len(written) == len(set(written)) > 20


def test_an_error_on_one_rank_ends_all(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(vision_cache, "_free_bytes", lambda folder: 5000)
    with pytest.raises(QvlError, match="the vision features need"):
        run("one", *FROZEN, *LAYOUTS["two replicas of two stages"], *CACHED)
