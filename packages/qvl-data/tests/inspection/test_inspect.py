"""A report says what a run would use, to the token, and everything that is wrong by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import llava, save_image, write_records
from qvl_core.recipe import load_recipe
from qvl_data.dataset import Dataset
from qvl_data.inspection.inspect import inspect_recipe
from qvl_data.inspection.kinds import ProblemGroup
from qvl_data.inspection.report import CheckReport
from qvl_data.preparation import prepare
from recipe_files import write_full_checkpoint, write_recipe


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full_checkpoint(tmp_path_factory.mktemp("full"))


def _inspect(recipe: Path, *settings: str, **options: Any) -> CheckReport:
    return inspect_recipe(load_recipe(recipe, settings), **options)


def _groups(report: CheckReport) -> dict[str, ProblemGroup]:
    return {group.kind: group for group in report.groups}


def _good(folder: Path, count: int = 12) -> Path:
    records = []
    for number in range(count):
        save_image(folder / f"{number}.png", 40 + 20 * number, 60 + 10 * number, seed=number)
        image = [f"{number}.png"] * (number % 3)
        records.append(llava("<image>" * len(image) + f"Question {number}?", "Answer " * (number + 1), image or None))
    return write_records(folder / "good.json", records)


def test_counts_are_those_of_a_run(full_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [_good(tmp_path)], sequence_length=10_000)
    report = _inspect(recipe)
    train = prepare(load_recipe(recipe)).train
    assert isinstance(train, Dataset)
    samples = [train.sample(index) for index in range(len(train))]
    lengths = [len(sample.input_ids) for sample in samples]
    images = sum(int((sample.input_ids == train.processor.spec.tokens.image).sum()) for sample in samples)
    assert report.is_clean
    assert report.groups == ()
    assert report.tokens is not None
    assert (report.tokens.all, report.tokens.image, report.tokens.video) == (sum(lengths), images, 0)
    assert report.lengths is not None
    assert (report.lengths.shortest, report.lengths.longest) == (min(lengths), max(lengths))
    assert report.lengths.mean == pytest.approx(np.mean(lengths))
    assert [sample.tokens for sample in report.longest] == sorted(lengths, reverse=True)[:10]
    assert report.epoch is not None
    assert (report.epoch.samples, report.epoch.tokens, report.epoch.steps_per_epoch) == (12, sum(lengths), 3.0)
    assert report.media is not None
    assert (report.media.images, report.media.videos) == (8, 0)
    assert report.media.bytes == sum((tmp_path / f"{i}.png").stat().st_size for i in range(12) if i % 3)


def test_weights_of_sources_count_in_an_epoch(full_checkpoint: Path, tmp_path: Path) -> None:
    source = {"path": str(_good(tmp_path)), "weight": 2.5}
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [source], sequence_length=10_000, length="epochs = 2")
    report = _inspect(recipe)
    assert report.epoch is not None
    assert (report.epoch.samples, report.epoch.epochs, report.epoch.steps) == (30, 2, None)
    assert report.tokens is not None
    assert report.epoch.tokens > 2 * report.tokens.all


def test_packs_are_those_of_a_run(full_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [_good(tmp_path)], sequence_length=600, packing=True)
    report = _inspect(recipe)
    assert report.epoch is not None
    assert report.epoch.packs is not None
    assert report.epoch.packs.count == prepare(load_recipe(recipe)).report.epoch_length
    assert report.epoch.packs.fill == pytest.approx(report.epoch.tokens / (600 * report.epoch.packs.count))
    assert report.epoch.steps_per_epoch == report.epoch.packs.count / 4


@pytest.mark.parametrize("policy", ["drop", "shrink", "error"])
def test_too_long_samples(full_checkpoint: Path, tmp_path: Path, policy: str) -> None:
    path = _good(tmp_path)
    free = write_recipe(tmp_path / "free.toml", full_checkpoint, [path], sequence_length=10_000)
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [path], sequence_length=120, too_long=policy)
    report, every = _inspect(recipe, examples=True), prepare(load_recipe(free)).train
    assert isinstance(every, Dataset)
    over = every.lengths[every.lengths > 120]
    (source,) = report.sources
    group = _groups(report)["too_long"]
    assert 0 < len(over) < 12
    assert group.count == len(over)
    assert group.is_error == (policy == "error")
    assert report.histogram is not None
    if policy == "error":
        assert (source.usable, source.dropped, source.wrong) == (12 - len(over), 0, len(over))
        assert not report.is_clean
        return
    data = prepare(load_recipe(recipe))
    assert (source.usable, source.dropped, source.shrunk) == (
        data.report.train_samples,
        data.report.dropped,
        data.report.shrunk,
    )
    assert source.wrong == 0
    assert sum(report.histogram.dropped) == source.dropped
    assert sum(report.histogram.used) == source.usable
    assert (source.shrunk > 0) == (policy == "shrink")
    notes = {note.where: note.message.split(":")[0] for note in data.report.notes}
    assert {problem.where for problem in group.examples} == set(notes)
    for problem in group.examples:
        assert problem.message.startswith(notes[problem.where])
    dropped = [example for example in report.examples if example.why == "dropped"]
    assert len(dropped) == min(3, source.dropped)
    assert all(example.tokens > 120 for example in dropped)


def test_every_kind_of_problem(full_checkpoint: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "good.png")
    (tmp_path / "text.png").write_bytes(b"text")
    outside = {"objects": {"bbox": [[0, 0, 500, 10]]}}
    records: list[Any] = [
        llava("<image>?", "a", "missing.png"),
        llava("<image>?", "a", "text.png"),
        llava("<image>?", "a", "../up.png"),
        llava("<image>?", "a"),
        llava("q", ""),
        {"conversations": [{"from": "gpt", "value": "a"}]},
        {"conversations": 5},
        {**llava("<image>?", "<box>", "good.png"), **outside},
        llava("the same", "twice"),
        llava("the same", "twice"),
    ]
    path = write_records(tmp_path / "bad.json", records)
    report = _inspect(write_recipe(tmp_path / "r.toml", full_checkpoint, [path, tmp_path / "none.json"]))
    found = {kind: [problem.where for problem in group.examples] for kind, group in _groups(report).items()}
    assert found == {
        "file": [str(tmp_path / "none.json")],
        "record": [f"{path}:8"],
        "role": [f"{path}:7"],
        "empty": [f"{path}:6"],
        "placeholder": [f"{path}:5"],
        "path": [f"{path}:4"],
        "missing": [f"{path}:2"],
        "media": [f"{path}:3"],
        "region": [f"{path}:9"],
        "duplicate": [f"{path}:11"],
    }
    assert (report.errors, report.warnings) == (9, 1)
    assert (report.sources[0].records, report.sources[0].usable, report.sources[0].wrong) == (10, 2, 8)


def test_counts_beyond_what_is_shown(full_checkpoint: Path, tmp_path: Path) -> None:
    path = write_records(tmp_path / "bad.json", [llava("<image>?", "a", f"{i}.png") for i in range(600)])
    report = _inspect(write_recipe(tmp_path / "r.toml", full_checkpoint, [path]), shown=2)
    (group,) = report.groups
    assert (group.kind, group.count, len(group.examples)) == ("missing", 600, 2)
    assert report.lengths is None


def test_header_check_passes_what_decoding_finds(full_checkpoint: Path, tmp_path: Path) -> None:
    whole = save_image(tmp_path / "whole.png", 90, 90).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    path = write_records(tmp_path / "a.json", [llava("<image>?", "a", "cut.png")])
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [path])
    assert _inspect(recipe).is_clean
    report = _inspect(recipe, decode=True)
    assert [group.kind for group in report.groups] == ["media"]
    assert report.decoded


def test_same_names_in_other_folders_are_no_duplicates(full_checkpoint: Path, tmp_path: Path) -> None:
    sources: list[Path | dict[str, Any]] = []
    for seed, name in enumerate(("a", "b", "c")):
        save_image(tmp_path / name / "1.png", seed=seed % 2)
        sources.append(write_records(tmp_path / name / "r.json", [llava("<image>?", "a", "1.png")]))
    (group,) = _inspect(write_recipe(tmp_path / "r.toml", full_checkpoint, sources)).groups
    (problem,) = group.examples
    assert (group.kind, group.is_error) == ("duplicate", False)
    assert problem.where == f"{tmp_path}/c/r.json:2"
    assert f"{tmp_path}/a/r.json:2" in problem.message


def test_validation_that_is_trained_on(full_checkpoint: Path, tmp_path: Path) -> None:
    train = write_records(tmp_path / "train.json", [llava(f"q{i}", "a") for i in range(4)])
    held = write_records(tmp_path / "held.json", [llava("q2", "a"), llava("new", "a"), llava("new", "a")])
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [train], validation={"path": str(held)})
    report = _inspect(recipe)
    (group,) = report.groups
    assert (group.kind, group.count, group.examples[0].where) == ("leak", 1, f"{held}:2")
    assert f"{train}:4" in group.examples[0].message
    assert report.validation_samples == 3
    assert [source.weight for source in report.sources] == [1.0, None]


def test_held_out_samples_are_not_in_the_figures(full_checkpoint: Path, tmp_path: Path) -> None:
    train = write_records(tmp_path / "train.json", [llava(f"question {i}", "a" * i) for i in range(1, 21)])
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [train], validation={"fraction": 0.25})
    report, data = _inspect(recipe), prepare(load_recipe(recipe))
    assert (report.validation_samples, report.sources[0].usable) == (5, 20)
    assert report.epoch is not None
    assert report.epoch.samples == 15
    assert report.tokens is not None
    assert report.tokens.all == data.report.tokens
    assert "drawn with seed 3" in report.validation_from


@pytest.mark.parametrize("policy", ["drop", "shrink"])
def test_all_dropped_is_a_problem(full_checkpoint: Path, tmp_path: Path, policy: str) -> None:
    path = write_records(tmp_path / "a.json", [llava("q", "a")] * 3)
    report = _inspect(write_recipe(tmp_path / "r.toml", full_checkpoint, [path], sequence_length=3, too_long=policy))
    assert {kind: group.count for kind, group in _groups(report).items()} == {"recipe": 1, "too_long": 3}
    assert "all 3 samples are longer than 3 tokens" in _groups(report)["recipe"].examples[0].message


def test_examples_have_pictures_and_texts(full_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [_good(tmp_path)], sequence_length=10_000)
    examples = _inspect(recipe, examples=True).examples
    assert [example.why for example in examples] == ["longest"] * 3 + ["random"] * 6
    longest = examples[0]
    assert longest.turns[0] == ("user", "[image][image]Question 11?")
    assert longest.turns[1][0] == "assistant"
    assert all(picture.uri.startswith("data:image/") for picture in longest.thumbnails)
    assert _inspect(recipe).examples == ()


def test_writes_nothing(full_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [_good(tmp_path)], sequence_length=10_000)
    before = sorted(tmp_path.rglob("*"))
    _inspect(recipe, examples=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_weights_and_data_are_named_together(full_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", full_checkpoint, [tmp_path / "none.json"])
    report = _inspect(recipe, f"weights.source={json.dumps(str(tmp_path / 'nowhere'))}")
    (group,) = report.groups
    assert [problem.key for problem in group.examples] == ["weights.source", "data.sources[0].path"]
    assert report.sources == ()


def test_stream_is_checked_as_a_run_would_read_it(full_checkpoint: Path, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", [llava("q", "a"), llava("r", "b")])
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(json.dumps(llava(f"q{i}", "a")) for i in range(8)))
    listed = write_recipe(tmp_path / "list.toml", full_checkpoint, [path], streaming=True)
    streamed = write_recipe(tmp_path / "lines.toml", full_checkpoint, [lines], streaming=True)
    (group,) = _inspect(listed).groups
    assert "cannot be streamed" in group.examples[0].message
    report = _inspect(streamed)
    assert report.is_clean
    assert report.epoch is not None
    assert report.epoch.samples == 8
