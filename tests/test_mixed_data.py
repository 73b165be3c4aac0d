"""Records of every format in one recipe: checked, shown, trained, and the same whatever the layout and the workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/tiny_mixed_sft.toml"


def qvl(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command from the root of the repository, with caches of its own."""
    command = [sys.executable, "-m", "qvl_core.cli", *words, "--set", f"data.cache_dir={folder / 'cache'}"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "COLUMNS": "100"}
    )


def losses(folder: Path, name: str, *settings: str) -> list[float]:
    words = [word for setting in settings for word in ("--set", setting)]
    out = folder / name
    done = qvl("run", RECIPE, "--set", "train.steps=4", "--set", f"output.dir={out}", *words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_check_finds_nothing_wrong_and_counts_packs(tmp_path: Path) -> None:
    done = qvl("data", "check", RECIPE, "--format", "json", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [source["records"] for source in found["sources"]] == [16, 7, 4, 4, 4]
    assert (found["media"]["images"], found["media"]["videos"]) == (28, 1)


def test_the_preview_shows_boxes_and_a_clip(tmp_path: Path) -> None:
    done = qvl("data", "preview", RECIPE, "--out", str(tmp_path / "page"), "--samples", "20", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "page/index.html").read_text(encoding="utf-8")
    assert "boxes.jsonl" in page
    assert "sharegpt.jsonl" in page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the run that all others are compared with; its cache is warm afterwards."""
    return tmp_path_factory.mktemp("mixed")


@pytest.fixture(scope="module")
def straight(folder: Path) -> list[float]:
    """Give the losses of the recipe as it is, from a cold cache."""
    return losses(folder, "straight")


def test_neither_workers_nor_a_warm_cache_change_a_loss(folder: Path, straight: list[float]) -> None:
    assert len(straight) == 4
    assert losses(folder, "workers", "data.workers=0") == straight
    assert losses(folder, "cached", "data.workers=1") == straight


def test_two_replicas_train_on_the_same_packs(tmp_path: Path, straight: list[float]) -> None:
    pytest.importorskip("mpi4py", reason="several processes need MPI")
    # float32 sums in another order: what tests/layouts allows for a first loss, and some steps more.
    assert losses(tmp_path, "two", "layout.dp=2") == pytest.approx(straight, rel=2e-5)
