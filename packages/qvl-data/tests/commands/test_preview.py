"""`qvl data preview`: which samples, where the page goes, and what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import typer
from data_files import llava, save_image, write_records
from page_reader import PageReader
from qvl_core.cli.boundary import guarded
from qvl_core.recipe import load_recipe
from qvl_data import batches
from qvl_data.batching.item_source import indexed_items
from qvl_data.commands import register
from qvl_data.dataset import Dataset
from qvl_data.preparation import prepare
from recipe_files import write_full_checkpoint, write_recipe


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full_checkpoint(tmp_path_factory.mktemp("full"))


@pytest.fixture
def recipe(full_checkpoint: Path, tmp_path: Path) -> Path:
    save_image(tmp_path / "a.png")
    records = [llava("<image>" * (i % 2) + f"q{i}", f"a{i}", "a.png" if i % 2 else None) for i in range(12)]
    path = write_records(tmp_path / "r.json", records)
    lines = tmp_path / "r.jsonl"
    lines.write_text("\n".join(line.rstrip(",") for line in path.read_text().splitlines()[1:-1]))
    return write_recipe(tmp_path / "r.toml", full_checkpoint, [lines])


def run(*words: object) -> int:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    command = typer.main.get_command(app)

    def action() -> int:
        command.main(["data", "preview", *map(str, words)], standalone_mode=False)
        return 0

    return guarded(action)


def _places(page: Path) -> list[str]:
    """Give the names of the samples of a page, in order."""
    reader = PageReader(page.read_text(encoding="utf-8"))
    names = [text for text in reader.texts if text.rpartition(":")[2].isdigit() and "r.jsonl" in text]
    # The table of contents names them first.
    assert names[: len(names) // 2] == names[len(names) // 2 :] or len(names) == 1
    return names[len(names) // 2 :]


def _order(recipe: Path, *settings: str) -> list[str]:
    loaded = load_recipe(recipe, settings)
    train = prepare(loaded).train
    assert isinstance(train, Dataset)
    items = indexed_items(train, loaded).order.items(0, 30)
    return [train.where(number) for item in items for number in item.samples]


def test_shows_the_first_samples_of_training(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(recipe, "--out", out, "--samples", 5) == 0
    assert capsys.readouterr().out.startswith(f"{out}/index.html: ")
    assert _places(out / "index.html") == _order(recipe)[:5]


def test_starts_anywhere_also_in_the_next_epoch(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(recipe, "--out", out, "--samples", 4, "--position", 10) == 0
    assert _places(out / "index.html") == _order(recipe)[10:14]


def test_shows_named_samples(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(recipe, "--out", out, "--index", 3, "--index", 1) == 0
    assert [place.rpartition(":")[2] for place in _places(out / "index.html")] == ["4", "2"]


def test_shows_packs(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    setting = "data.packing=true"
    assert run(recipe, "--out", out, "--samples", 1, "--set", setting) == 0
    page = out / "index.html"
    assert "Pack at position 0" in PageReader(page.read_text(encoding="utf-8")).text
    places = _places(page)
    assert places == _order(recipe, setting)[: len(places)]


def test_page_has_room_for_so_many_samples(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_data.commands.preview._MOST_SAMPLES", 4)
    out = tmp_path / "out"
    setting = "data.packing=true"
    assert run(recipe, "--out", out, "--samples", 3, "--set", setting, "--set", "data.sequence_length=2000") == 0
    assert len(_places(out / "index.html")) == 4
    assert "and 8 samples more" in PageReader((out / "index.html").read_text(encoding="utf-8")).text


def test_shows_a_stream(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(recipe, "--out", out, "--samples", 12, "--set", "data.streaming=true") == 0
    places = _places(out / "index.html")
    assert sorted(int(place.rpartition(":")[2]) for place in places) == list(range(1, 13))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--index", "12"), "there is no sample 12: the 12 training samples are 0 to 11"),
        (("--set", "data.sequence_length=3"), "all 12 samples are longer than 3 tokens"),
        (("--set", "weights.source=nowhere"), "nowhere does not exist"),
        (("--samples", "0"), "--samples"),
        (("--set", "data.sequence=1"), "data.sequence"),
    ],
)
def test_refuses(
    recipe: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(recipe, "--out", out, *words) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_leaves_a_foreign_page_alone(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index.html").write_text("<p>mine")
    assert run(recipe, "--out", tmp_path) == 2
    assert "not a page of `qvl data`" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "<p>mine"
    assert run(recipe, "--out", tmp_path, "--overwrite") == 0


def test_packs_of_a_stream_show_the_rows_that_training_takes(recipe: Path, tmp_path: Path) -> None:
    settings = ("data.streaming=true", "data.packing=true", "data.too_long=drop", "data.shuffle_buffer=4")
    words = [word for setting in settings for word in ("--set", setting)]
    assert run(recipe, "--out", tmp_path / "page", "--samples", 2, *words) == 0
    loaded = load_recipe(recipe, settings)
    data = prepare(loaded)
    with closing(batches(data, recipe=loaded)) as steps:
        taken = [name for batch in next(steps) for name in batch.sample_ids]
    shown = _places(tmp_path / "page/index.html")
    assert shown[: len(taken)] == taken[: len(shown)]
    assert len(shown) > 2
