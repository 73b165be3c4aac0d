"""Kept vision features in several ranks: in threads, as in test_other_layouts.py. Equal to the bit to the same layout
without them, and between layouts whose replicas see the same batches.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from test_other_layouts import run, without_signals  # noqa: F401 - the fixture is used by its name
from test_vision_cache import CACHED, FROZEN, mixed, validations  # noqa: F401
from whole_runs import losses

LAYOUTS = {
    "both on the first stage": ("layout.pp=2", "layout.vision_stages=[4,0]", "layout.text_stages=[1,3]"),
    "text begins behind vision": ("layout.pp=2", "layout.vision_stages=[4,0]", "layout.text_stages=[0,4]"),
    "vision on two stages": ("layout.pp=3", "layout.vision_stages=[2,2,0]", "layout.text_stages=[0,1,3]"),
    "two replicas": ("layout.dp=2",),
    "two replicas of two stages": (
        *("layout.dp=2", "layout.zero1=true", "layout.pp=2"),
        *("layout.vision_stages=[4,0]", "layout.text_stages=[0,4]"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_trains_the_same_with_and_without_kept_features(mixed: Path, layout: str) -> None:  # noqa: F811
    settings = (*FROZEN, *LAYOUTS[layout], "train.steps=20")
    run("one", *settings)
    run("one", *settings, *CACHED)
    assert len(losses()) == 20
    assert losses("cached") == losses()
    assert validations("cached") == validations() != []
    assert list((mixed / "cache").rglob("*.features"))
