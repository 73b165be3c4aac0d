"""Streamed data: rows and packs in an order that any rank finds again; what cannot be used is replaced or named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from data_files import llava, save_image, write_lines
from qvl_core.errors import DataError, RunError
from qvl_data import batches, prepare, validation_batches
from qvl_data.batching.bad_samples import BadSamples
from qvl_data.streaming.rows import Rows
from taken_steps import ids, learned_ids, take


def texts(count: int, name: str = "Question") -> list[Any]:
    return [llava(f"{name} {number}?", "Yes. " * (1 + number % 9)) for number in range(count)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Give 60 records, every third with a picture."""
    records = texts(60)
    for number in range(0, 60, 3):
        save_image(tmp_path / f"{number}.png", 40 + number, 60, seed=number)
        records[number] = llava(f"<image>\nQuestion {number}?", "Yes.", f"{number}.png")
    return write_lines(tmp_path / "train.jsonl", records)


def stream(make_recipe: Callable[..., Any], sources: list[Any], **settings: Any) -> Any:
    return make_recipe(sources, **{"streaming": True, "shuffle_buffer": 20, "global_batch": 4, **settings})


def test_an_epoch_streams_every_record_once(make_recipe: Callable[..., Any], lines: Path) -> None:
    recipe = stream(make_recipe, [lines])
    data = prepare(recipe)
    assert data.report.epoch_length == 60
    assert data.report.lines() == ["60 records to stream, each checked when it is used"]
    names = learned_ids(take(data, recipe, 30))
    assert sorted(names[:60]) == sorted(names[60:]) == sorted(f"{lines}:{number + 1}" for number in range(60))
    assert names[:60] != names[60:]


def test_samples_are_those_of_the_indexed_data(make_recipe: Callable[..., Any], lines: Path) -> None:
    recipe = stream(make_recipe, [lines])
    streamed = {b.sample_ids[0]: b for step in take(prepare(recipe), recipe, 15) for b in step}
    plain = make_recipe([lines], global_batch=4)
    for step in take(prepare(plain), plain, 15):
        for batch in step:
            twin = streamed[batch.sample_ids[0]]
            assert batch.input_ids.tolist() == twin.input_ids.tolist()
            assert batch.labels.tolist() == twin.labels.tolist()
            assert batch.patches.tobytes() == twin.patches.tobytes()


@pytest.mark.parametrize("packing", [False, True])
def test_steps_are_the_same_for_any_workers_and_ranks(
    make_recipe: Callable[..., Any], lines: Path, packing: bool
) -> None:
    found = {}
    for workers in (0, 1, 3):
        recipe = stream(make_recipe, [lines], workers=workers, packing=packing, sequence_length=150)
        found[workers] = ids(take(prepare(recipe), recipe, 12))
    assert found[0] == found[1] == found[3]
    data = prepare(recipe)
    ranks = [ids(take(data, recipe, 12, dp_rank=rank, dp_size=2)) for rank in range(2)]
    woven = [[micro for pair in zip(*step, strict=True) for micro in pair] for step in zip(*ranks, strict=True)]
    assert woven == found[0]


def test_several_sources_a_folder_weights_and_max_samples(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    write_lines(folder / "a.jsonl", texts(10))
    write_lines(folder / "b.jsonl", texts(10))
    other = write_lines(tmp_path / "other.jsonl", texts(300))
    sources = [{"path": str(folder), "weight": 2.0}, {"path": str(other), "max_samples": 20}]
    recipe = stream(make_recipe, sources)
    data = prepare(recipe)
    assert data.report.epoch_length == 60
    used = Counter(learned_ids(take(data, recipe, 15)))
    assert Counter(used.values()) == {2: 20, 1: 20}
    assert {name for name, times in used.items() if times == 1} == {f"{other}:{line}" for line in range(1, 21)}


def test_going_on_reads_only_the_blocks_of_its_window(
    make_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "train.jsonl", texts(3000))
    recipe = stream(make_recipe, [path], shuffle_buffer=256, workers=0)
    data = prepare(recipe)
    read = []
    whole = Rows._elements
    monkeypatch.setattr(Rows, "_elements", lambda self, at: read.append(at) or whole(self, at))
    take(data, recipe, 4, consumed_samples=9_000_000)
    assert 1 <= len(set(read)) <= 2


@pytest.mark.parametrize("packing", [False, True])
def test_bad_and_too_long_records_are_replaced_counted_and_named(
    make_recipe: Callable[..., Any], tmp_path: Path, packing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    records = texts(40)
    records[3] = '{"conversations": ['
    records[7] = llava("<image>?", "Yes.", "missing.png")
    records[11] = llava("long", "word " * 400)
    path = write_lines(tmp_path / "train.jsonl", records)
    recipe = stream(make_recipe, [path], on_bad_sample="skip", packing=packing, sequence_length=150, shuffle_buffer=40)
    bad = BadSamples(policy="skip", limit=2)
    with batches(prepare(recipe), recipe=recipe, bad_samples=bad) as steps:
        names = learned_ids(list(islice(steps, 20)))
    unusable = {f"{path}:{line}" for line in (4, 8, 12)}
    assert not unusable & set(names)
    assert len(set(names)) == 37
    assert bad.bad == 2
    assert bad.too_long >= 1
    text = "\n".join(bad.lines())
    assert all(name in text for name in unusable)
    said = [record.getMessage() for record in caplog.records if record.name == "qvl_data"]
    assert sorted(line.split(": left out")[0] for line in said) == [f"{path}:4", f"{path}:8"]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(
    ("record", "message"),
    [('{"conversations": [', "not JSON"), (llava("<image>?", "Yes.", "missing.png"), "missing.png")],
)
def test_a_bad_record_stops_with_file_and_line(
    make_recipe: Callable[..., Any], tmp_path: Path, packing: bool, record: Any, message: str
) -> None:
    path = write_lines(tmp_path / "train.jsonl", [*texts(20), record, *texts(19)])
    recipe = stream(make_recipe, [path], packing=packing, sequence_length=150)
    with pytest.raises(DataError) as error:
        take(prepare(recipe), recipe, 40)
    assert f"{path}:21" in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("packing", [False, True])
def test_too_long_stops_where_it_is_said_to_be_an_error_also_when_bad_ones_are_skipped(
    make_recipe: Callable[..., Any], tmp_path: Path, packing: bool
) -> None:
    path = write_lines(tmp_path / "train.jsonl", [*texts(20), llava("long", "word " * 400)])
    settings: dict[str, Any] = {"too_long": "error", "on_bad_sample": "skip", "sequence_length": 150}
    recipe = stream(make_recipe, [path], packing=packing, **settings)
    with pytest.raises(DataError, match=rf"{path}:21: data.sequence_length"):
        take(prepare(recipe), recipe, 8)


def test_shrink_makes_a_streamed_picture_fit(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 224, 224)
    path = write_lines(tmp_path / "train.jsonl", [llava("<image>?", "Yes.", "a.png")])
    recipe = stream(make_recipe, [path], too_long="shrink", sequence_length=70)
    for step in take(prepare(recipe), recipe, 1):
        assert all(40 < batch.tokens <= 70 for batch in step)


@pytest.mark.parametrize("packing", [False, True])
def test_a_window_without_any_usable_record_is_an_error(
    make_recipe: Callable[..., Any], tmp_path: Path, packing: bool
) -> None:
    path = write_lines(tmp_path / "train.jsonl", [llava("long", "word " * 400)] * 30)
    recipe = stream(make_recipe, [path], packing=packing, sequence_length=150)
    with pytest.raises(DataError, match=r"can be used|nor can any that may stand in"):
        take(prepare(recipe), recipe, 1)


def test_packs_fill_and_use_every_record_of_an_epoch(make_recipe: Callable[..., Any], lines: Path) -> None:
    recipe = stream(make_recipe, [lines], packing=True, sequence_length=200, shuffle_buffer=60, global_batch=1)
    steps = take(prepare(recipe), recipe, 40)
    packs = [batch for step in steps for batch in step]
    assert all(batch.tokens <= 200 for batch in packs)
    names = [name for batch in packs for name in batch.sample_ids]
    # A window of 60 positions is an epoch here.
    assert len(set(names[:60])) == 60


def test_the_memory_of_packs_finds_a_place_without_packing_again_and_its_loss_is_said(
    make_recipe: Callable[..., Any], lines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = stream(make_recipe, [lines], packing=True, sequence_length=150, global_batch=1)
    data = prepare(recipe)
    whole = ids(take(data, recipe, 60))
    caplog.clear()
    assert ids(take(data, recipe, 5, consumed_samples=50)) == whole[50:55]
    assert not caplog.records
    (memory,) = (tmp_path / "cache").glob("packs-*.txt")
    memory.unlink()
    assert ids(take(data, recipe, 5, consumed_samples=50)) == whole[50:55]
    assert "packing the data again up to pack 50" in caplog.text


def test_a_memory_of_packs_that_no_longer_fits_stops(
    make_recipe: Callable[..., Any], lines: Path, tmp_path: Path
) -> None:
    recipe = stream(make_recipe, [lines], packing=True, sequence_length=150, global_batch=1)
    data = prepare(recipe)
    take(data, recipe, 20)
    (memory,) = (tmp_path / "cache").glob("packs-*.txt")
    counts = dict(line.split() for line in memory.read_text().splitlines())
    memory.write_text("".join(f"{n} {int(c) + 1}\n" for n, c in counts.items()))
    with pytest.raises(RunError, match="window 0 has"):
        take(data, recipe, 1)


def test_the_data_hash_sees_a_changed_file_and_not_its_name(make_recipe: Callable[..., Any], lines: Path) -> None:
    hashes = [prepare(stream(make_recipe, [lines])).data_hash]
    moved = lines.rename(lines.with_name("other.jsonl"))
    hashes.append(prepare(stream(make_recipe, [moved])).data_hash)
    moved.write_text(moved.read_text().replace("Yes", "Yep", 1))
    hashes.append(prepare(stream(make_recipe, [moved])).data_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_validation_file_is_indexed_and_a_fraction_refused(
    make_recipe: Callable[..., Any], lines: Path, tmp_path: Path
) -> None:
    held = write_lines(tmp_path / "val.jsonl", texts(5))
    recipe = stream(make_recipe, [lines], validation={"path": str(held)})
    data = prepare(recipe)
    names = [name for batch in validation_batches(data, recipe=recipe) for name in batch.sample_ids]
    assert names == [f"{held}:{line}" for line in range(1, 6)]
    with pytest.raises(DataError, match="nobody knows which samples there are"):
        prepare(stream(make_recipe, [lines], validation={"fraction": 0.1}))


def test_epochs_of_streamed_packs_are_refused_with_a_fix(make_recipe: Callable[..., Any], lines: Path) -> None:
    recipe = stream(make_recipe, [lines], packing=True)
    recipe.train.epochs = 2
    with pytest.raises(DataError, match=r"train\.epochs[\s\S]*fix: state train\.steps"):
        prepare(recipe)


def test_an_empty_and_a_missing_file_are_named_together(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    empty = write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError) as error:
        prepare(stream(make_recipe, [empty, tmp_path / "missing.jsonl"]))
    assert "empty.jsonl" in str(error.value)
    assert "missing.jsonl" in str(error.value)


def test_parquet_streams_like_json_lines(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    from pyarrow import parquet

    records = texts(700)
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=300)
    recipe = stream(make_recipe, [path], global_batch=100)
    names = learned_ids(take(prepare(recipe), recipe, 7))
    assert len(set(names)) == 700
