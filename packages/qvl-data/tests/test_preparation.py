"""`prepare` finds everything that is wrong at once, and what it accepts is what training sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import llava, save_image, write_records
from qvl_core.errors import DataError, WeightsError
from qvl_data.dataset import Dataset
from qvl_data.preparation import prepare
from qvl_data.records.json_array import JsonArrayFile


def wheres(data: Dataset) -> list[str]:
    return [data.where(index) for index in range(len(data))]


def test_counts_lengths_and_report(make_recipe: Callable[..., Any], data_file: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    data = prepare(make_recipe([data_file]), progress=lambda *a: seen.append(a))
    assert len(data.train) == 10
    assert data.validation is None
    assert (data.report.records, data.report.images, data.report.dropped) == (10, 7, 0)
    samples = [data.train.sample(i) for i in range(10)]
    assert [len(sample.input_ids) for sample in samples] == data.train.lengths.tolist()
    assert data.report.tokens == sum(len(sample.input_ids) for sample in samples)
    assert data.report.longest == max(len(sample.input_ids) for sample in samples)
    assert {name for name, _, _ in seen} == {"checking records"}
    assert seen[-1][1] == seen[-1][2]
    assert "10 records with 7 images" in data.report.lines()[0]


def test_all_problems_of_all_files_at_once(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_bytes(b"text")
    (tmp_path / "cut.png").write_bytes(save_image(tmp_path / "whole.png").read_bytes()[:200])
    save_image(tmp_path / "thin.png", 1, 300)
    images = ["good.png", "missing.png", "text.jpg", "cut.png", "thin.png", "../x.png"]
    first = write_records(tmp_path / "a.json", [llava("<image>?", "a", image) for image in images])
    second = write_records(tmp_path / "b.json", [llava("q", ""), llava("<image>", "a")])
    with pytest.raises(DataError) as caught:
        prepare(make_recipe([first, second, tmp_path / "none.json"]))
    found = {problem.where: problem.message for problem in caught.value.problems}
    expected = {
        f"{first}:3": "no such file",
        f"{first}:4": "is not a JPEG",
        f"{first}:5": "cannot be decoded",
        f"{first}:6": "aspect ratio",
        f"{first}:7": "`..` part",
        f"{second}:2": "answer is empty",
        f"{second}:3": "0 image(s)",
        str(tmp_path / "none.json"): "no such file",
    }
    assert set(found) == set(expected)
    for where, message in expected.items():
        assert message in found[where]


def test_shows_twenty_problems_and_the_count(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", [llava("<image>?", "a", f"{i}.png") for i in range(50)])
    with pytest.raises(DataError) as caught:
        prepare(make_recipe([path]))
    assert len(caught.value.problems) == 21
    assert "and 30 more problems: 50 in all" in str(caught.value)


def test_media_root_is_the_data_file_s_folder_or_the_one_stated(
    make_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    save_image(tmp_path / "media" / "a.png")
    path = write_records(tmp_path / "a.json", [llava("<image>", "a", "a.png")])
    with pytest.raises(DataError, match="no such file"):
        prepare(make_recipe([path]))
    assert len(prepare(make_recipe([{"path": str(path), "media_root": str(tmp_path / "media")}])).train) == 1
    with pytest.raises(DataError, match="there is no such folder"):
        prepare(make_recipe([{"path": str(path), "media_root": str(tmp_path / "nowhere")}]))


def long_file(tmp_path: Path) -> Path:
    save_image(tmp_path / "large.png", 224, 224)
    records = [llava("<image>?", "a", "large.png"), llava("q", "word " * 200), llava("q", "a")]
    return write_records(tmp_path / "long.json", records)


def test_too_long_drop_counts_and_lists(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    data = prepare(make_recipe([long_file(tmp_path)], sequence_length=60))
    assert len(data.train) == 1
    assert data.report.dropped == 2
    assert data.report.shrunk == 0
    assert [note.where.rsplit(":", 1)[1] for note in data.report.notes] == ["2", "3"]
    assert "the limit is 60" in data.report.notes[0].message
    assert "too long: 2 dropped" in "\n".join(data.report.lines())


def test_too_long_error_names_them(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = long_file(tmp_path)
    with pytest.raises(DataError) as caught:
        prepare(make_recipe([path], sequence_length=60, too_long="error"))
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2", f"{path}:3"]
    assert prepare(make_recipe([path], sequence_length=2000, too_long="error")).report.dropped == 0


def test_too_long_shrink_fits_as_large_as_possible(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    data = prepare(make_recipe([long_file(tmp_path)], sequence_length=60, too_long="shrink"))
    assert (data.report.shrunk, data.report.dropped) == (1, 1)
    planned = data.train.planned(0)
    sample = data.train.sample(0)
    assert len(sample.input_ids) == planned.tokens <= 60
    side = int(sample.grids[0, 1])
    assert planned.tokens + ((side // 2 + 1) ** 2 - (side // 2) ** 2) > 60
    assert "also with the smallest media: dropped" in data.report.notes[1].message


def test_refuses_when_everything_was_dropped(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 3 samples are longer than 10 tokens"):
        prepare(make_recipe([long_file(tmp_path)], sequence_length=10))


def test_validation_fraction_is_apart_and_repeatable(make_recipe: Callable[..., Any], data_file: Path) -> None:
    recipe = make_recipe([data_file], validation={"fraction": 0.3})
    data = prepare(recipe)
    assert data.validation is not None
    names = [wheres(part) for part in (data.train, data.validation)]
    assert len(names[0]) == 7
    assert len(names[1]) == 3
    assert not set(names[0]) & set(names[1])
    again = prepare(recipe).validation
    assert again is not None
    assert wheres(again) == names[1]


def test_validation_that_leaves_nothing_is_refused(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", [llava("q", "a")])
    with pytest.raises(DataError, match="holds out 1 of 1 samples"):
        prepare(make_recipe([path], validation={"fraction": 0.5}))


def test_validation_file(make_recipe: Callable[..., Any], data_file: Path, tmp_path: Path) -> None:
    other = write_records(tmp_path / "val.json", [llava("q", "a"), llava("r", "b")])
    data = prepare(make_recipe([data_file], validation={"path": str(other)}))
    assert len(data.train) == 10
    assert data.validation is not None
    assert len(data.validation) == 2
    with pytest.raises(DataError, match=r"val2\.json"):
        prepare(make_recipe([data_file], validation={"path": str(tmp_path / "val2.json")}))


def test_hash_follows_records_and_media_and_nothing_else(make_recipe: Callable[..., Any], data_file: Path) -> None:
    first = prepare(make_recipe([data_file])).data_hash
    assert prepare(make_recipe([data_file], workers=0, cache_dir=str(data_file.parent / "other"))).data_hash == first
    save_image(data_file.parent / "0.png", 40, 60, seed=99)
    changed = prepare(make_recipe([data_file])).data_hash
    assert changed != first
    data_file.write_text(data_file.read_text() + " ")
    assert prepare(make_recipe([data_file])).data_hash != changed


def test_sources_keep_their_counts_and_weights(
    make_recipe: Callable[..., Any], data_file: Path, tmp_path: Path
) -> None:
    other = write_records(tmp_path / "b.json", [llava(str(i), "a") for i in range(6)])
    sources = [{"path": str(data_file), "max_samples": 4}, {"path": str(other), "weight": 0.5}]
    data = prepare(make_recipe(sources))
    assert data.train.counts == (4, 6)
    assert data.train.weights == (1.0, 0.5)
    assert data.train.epoch_length() == 7


def test_an_image_replaced_after_the_check_is_named(make_recipe: Callable[..., Any], data_file: Path) -> None:
    data = prepare(make_recipe([data_file]))
    save_image(data_file.parent / "0.png", 40, 60, seed=99)
    with pytest.raises(DataError, match="changed after") as caught:
        data.train.sample(0)
    assert caught.value.problems[0].where == f"{data_file}:2"


def test_refuses_no_sources_and_a_folder_without_tokenizer(
    make_recipe: Callable[..., Any], data_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="names no file"):
        prepare(make_recipe([]))
    recipe = make_recipe([data_file])
    recipe.weights.source = str(tmp_path)
    with pytest.raises(WeightsError):
        prepare(recipe)


def test_loss_on_is_passed_through(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", [llava("question", "a")])
    learned = [
        int((prepare(make_recipe([path], loss_on=on)).train.sample(0).labels >= 0).sum()) for on in ("answers", "all")
    ]
    assert learned[0] == 2 < learned[1]


def test_sharegpt_source(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "a"}]
    path = write_records(tmp_path / "a.json", [{"messages": messages, "images": ["a.png"]}])
    sample = prepare(make_recipe([{"path": str(path), "format": "sharegpt"}])).train.sample(0)
    assert sample.sample_id == f"{path}:2"
    assert sample.patches.dtype == np.float32


def test_the_report_says_where_the_validation_samples_come_from(
    make_recipe: Callable[..., Any], data_file: Path, tmp_path: Path
) -> None:
    other = write_records(tmp_path / "val.json", [llava("q", "a"), llava("r", "b")])
    of_file = prepare(make_recipe([data_file], validation={"path": str(other)})).report.lines()
    of_all = prepare(make_recipe([data_file], validation={"fraction": 0.3}, seed=7)).report.lines()
    assert f"2 validation samples, from {other}" in of_file
    assert "3 validation samples, 0.3 of all, drawn with seed 7" in of_all


def test_which_samples_are_held_out_depends_on_the_seed_alone(make_recipe: Callable[..., Any], data_file: Path) -> None:
    def held(seed: int, **data: Any) -> list[str]:
        found = prepare(make_recipe([data_file], validation={"fraction": 0.3}, seed=seed, **data)).validation
        assert found is not None
        return wheres(found)

    assert held(1) == held(1, workers=0) == held(1, micro_batch=2, global_batch=4)
    assert len({tuple(held(seed)) for seed in range(8)}) > 4


def test_a_validation_file_is_checked_like_training_data(
    make_recipe: Callable[..., Any], data_file: Path, tmp_path: Path
) -> None:
    other = write_records(tmp_path / "val.json", [llava("<image>", "a", "nowhere.png"), llava("q", "a")])
    with pytest.raises(DataError, match=r"val\.json:2.*\n.*no such file"):
        prepare(make_recipe([data_file], validation={"path": str(other)}))
    long = write_records(tmp_path / "long.json", [llava("q", "word " * 400)])
    with pytest.raises(DataError, match=r"all samples of data\.validation\.path are longer than 200 tokens"):
        prepare(make_recipe([data_file], validation={"path": str(long)}, sequence_length=200))


def bad_file(tmp_path: Path) -> Path:
    save_image(tmp_path / "a.png")
    rows = [llava("<image>", "a", "a.png"), llava("<image>", "b", "no.png"), llava("q", ""), llava("q", "c")]
    return write_records(tmp_path / "bad.json", rows)


def test_bad_records_are_left_out_and_named_where_the_recipe_says_so(
    make_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    path = bad_file(tmp_path)
    data = prepare(make_recipe([path], on_bad_sample="skip"))
    assert wheres(data.train) == [f"{path}:2", f"{path}:5"]
    assert (data.report.records, data.report.bad) == (4, 2)
    assert [one.where for one in data.report.bad_examples] == [f"{path}:3", f"{path}:4"]
    assert "bad: 2 records left out:" in data.report.lines()
    with pytest.raises(DataError, match="no such file"):
        prepare(make_recipe([path]))


def test_more_bad_records_than_the_limit_stop_the_run(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 bad records; on_bad_sample skips at most 1") as caught:
        prepare(make_recipe([bad_file(tmp_path)], on_bad_sample="skip", max_bad_samples=1))
    assert len(caught.value.problems) == 3


def test_a_broken_file_and_a_refused_length_are_not_skipped(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prepare(make_recipe([bad_file(tmp_path), tmp_path / "none.json"], on_bad_sample="skip"))
    with pytest.raises(DataError, match="the limit is 60"):
        prepare(make_recipe([long_file(tmp_path)], on_bad_sample="skip", sequence_length=60, too_long="error"))


def test_bad_records_that_were_mended_are_used_and_ranks_take_what_the_first_process_found(
    make_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = make_recipe([bad_file(tmp_path)], on_bad_sample="skip")
    assert len(prepare(recipe).train) == 2
    save_image(tmp_path / "no.png")
    assert len(prepare(recipe, is_checked=True).train) == 2
    assert len(prepare(recipe).train) == 3


def test_a_validation_file_larger_than_the_data_is_refused_one_as_large_is_not(
    make_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    data = write_records(tmp_path / "train.json", [llava(f"q{i}", "a") for i in range(3)])
    for count in (3, 4):
        held = write_records(tmp_path / f"val{count}.json", [llava(f"r{i}", "a") for i in range(count)])
        recipe = make_recipe([data], validation={"path": str(held)})
        if count == 3:
            assert prepare(recipe).report.validation_samples == 3
            continue
        with pytest.raises(DataError, match=r"val4\.json has 4 samples, more than the 3 to train on") as caught:
            prepare(recipe)
        assert caught.value.problems[0].key == "data.validation.path"


def test_says_that_all_are_bad_where_none_was_too_long(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", [llava("q", "")])
    with pytest.raises(DataError, match="no record can be used: 1 are bad and left out"):
        prepare(make_recipe([path], on_bad_sample="skip"))


def test_one_record_with_many_problems_is_one_bad_record(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    rows = [llava("<image><image><image>", "a", ["x.png", "y.png", "z.png"]), llava("q", "a")]
    path = write_records(tmp_path / "a.json", rows)
    assert prepare(make_recipe([path], on_bad_sample="skip", max_bad_samples=1)).report.bad == 1


def test_the_bytes_of_a_file_of_records_are_hashed_once(
    make_recipe: Callable[..., Any], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = JsonArrayFile.digest

    def counting(file: JsonArrayFile) -> str:
        hashed.append(file.path)
        return real(file)

    monkeypatch.setattr(JsonArrayFile, "digest", counting)
    prepare(make_recipe([data_file]))
    assert hashed == [data_file]


def test_one_of_a_kind_is_one(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    path = write_records(tmp_path / "a.json", [llava("<image>", "a", "a.png")])
    assert prepare(make_recipe([path])).report.lines()[0] == "1 record with 1 image checked"
