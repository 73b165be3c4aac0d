"""Training from kept vision features: the same losses and gradient norms to the bit, in every layout and through stops.

Runs of one process here; several ranks in threads, as in test_other_layouts.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from whole_runs import losses, rows, train

FROZEN = ("model.freeze=['vision','merger']", "data.validation.fraction=0.2", "train.steps=24", "train.save.every=24")
CACHED = ("data.vision_cache=true", "output.dir=cached")


@pytest.fixture
def mixed(project: Path) -> Path:
    """Records with no, one and three images of several sizes; some images in several records."""
    from PIL import Image

    records = json.loads((project / "train.json").read_text())
    for number, record in enumerate(records):
        path = project / record["image"]
        Image.open(path).resize((40 + 24 * (number % 5), 40 + 16 * (number % 7))).save(path)
    names = [record["image"] for record in records]
    for number, record in enumerate(records):
        first = record["conversations"][0]
        if number % 4 == 1:
            record.pop("image")
            first["value"] = "How are you?"
        elif number % 4 == 2:
            record["image"] = [names[number], names[0], names[number - 1]]
            first["value"] = "<image><image><image>\nWhich digits?"
    (project / "train.json").write_text(json.dumps(records))
    recipe = (project / "recipe.toml").read_text()
    recipe = recipe.replace("sequence_length = 128", "sequence_length = 512").replace(
        "max_pixels = 3136", "max_pixels = 12544"
    )
    (project / "recipe.toml").write_text(recipe)
    return project


def validations(folder: str = "run") -> list[tuple[int, str]]:
    return [(row["step"], row["validation_loss"].hex()) for row in rows(folder) if "validation_loss" in row]


def files(project: Path) -> list[Path]:
    return sorted((project / "cache").rglob("*.features"))


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_the_losses_are_those_without_the_cache_to_the_bit(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], micro_batch: int
) -> None:
    settings = (*FROZEN, f"train.micro_batch={micro_batch}")
    train(*settings)
    capsys.readouterr()
    train(*settings, *CACHED)
    assert len(losses()) == 24
    assert losses("cached") == losses()
    assert validations("cached") == validations() != []
    kept = files(mixed)
    said = capsys.readouterr().out
    assert f"{len(kept)} images and videos, 0 of them known; {len(kept)} to compute" in said
    assert "free" in said
