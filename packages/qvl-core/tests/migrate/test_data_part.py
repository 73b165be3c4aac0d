"""The data file: sources, tags, media, labels, validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from migrated_values import FINETUNE_FILE, ROOT, Run, flat, made, values, written
from qvl_core.recipe import load_recipe
from reference_stack_files import DATA


def test_videos_and_the_image_token_contradict_each_other(run: Run, edit, tmp_path: Path) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["attr"].update(images=None, videos="videos"))
    found = run()
    assert any("marks the places of image tokens" in row.what for row in found.ledger.contradictions)
    theirs = written(found, tmp_path / "out")["7b_sft"]
    ours = flat(load_recipe(ROOT / "recipes" / "7b_video_sft.toml").resolved())
    for key in ("fps", "max_frames", "min_pixels", "max_pixels"):
        assert theirs[f"data.video.{key}"] == ours[f"data.video.{key}"]
    assert theirs["data.video.sampling"] == "mindspeed"


def test_attr_names_become_a_format_and_tags(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"].pop("attr"))
    assert values(run(), "sft")["data.sources"][0]["format"] == "llava"
    edit(
        "data_7b.json",
        lambda data: data["dataset_param"].update(attr={**DATA["dataset_param"]["attr"], "messages": "dialog"}),
    )
    source = values(run(), "sft")["data.sources"][0]
    assert (source["format"], source["tags"]) == ("sharegpt", {"messages": "dialog"})


def test_several_data_files_limits_streaming_and_validation(run: Run, edit) -> None:
    def more(data: dict[str, Any]) -> None:
        data["dataset_param"]["basic_parameters"].update(
            dataset="./data/a.json,./data/b.json",
            max_samples=10,
            streaming=True,
            val_dataset="./data/v.json",
            val_rate=0.1,
        )

    edit("data_7b.json", more)
    found = run()
    row = values(found, "sft")
    assert [source["path"] for source in row["data.sources"]] == ["data/a.json", "data/b.json"]
    assert row["data.streaming"] is True
    assert row["data.validation"]["path"] == "data/v.json"
    assert row["train.log.validate_every"] == 10000
    assert any(left.said.endswith("max_samples") and "streaming" in left.why for left in found.ledger.left)
    assert any("validation file and a fraction" in row.what for row in found.ledger.contradictions)


def test_a_fraction_held_out_of_a_stream_never_had_an_effect(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(streaming=True, val_rate=0.1))
    found = run()
    assert "data.validation" not in values(found, "sft")
    assert not made(found, "sft").problems
    assert any(row.said.endswith("val_rate") for row in found.ledger.left if row.fate == "no_effect")


def test_workers_of_the_data_file_never_had_an_effect(run: Run, change) -> None:
    change(FINETUNE_FILE, " \\\n    --num-workers 8", "")
    found = run()
    assert "data.workers" not in values(found, "sft")
    assert any(row.said == "dataloader_param.num_workers" for row in found.ledger.left if row.fate == "no_effect")


@pytest.mark.parametrize(("files", "told"), [("./a.json", False), ("./a.json,./b.json", True)])
def test_a_limit_over_several_files_is_a_remark(run: Run, edit, files: str, told: bool) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(dataset=files, max_samples=10))
    found = run()
    assert any("max_samples = 10 is not in the recipe" in text for _, text in found.ledger.remarks) == told
    assert ("max_samples" in values(found, "sft")["data.sources"][0]) != told


def test_without_a_dataset_its_folder_is_still_a_known_name(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(dataset=""))
    found = run()
    assert [problem.key for problem in made(found, "sft").problems] == ["data.sources"]
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []


@pytest.mark.parametrize(
    ("stated", "written", "tokens"), [(0, 12_544, "16 tokens"), (4096, 4096, ""), (784, 3136, "4 tokens")]
)
def test_the_least_frame_of_a_video_is_the_stated_one(run: Run, edit, stated: int, written: int, tokens: str) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["attr"].update(images=None, videos="videos"))
    edit("data_7b.json", lambda data: data["dataset_param"]["preprocess_parameters"].update(video_min_pixels=stated))
    (row,) = [row for row in made(run(), "sft").values if row.key == "data.video.min_pixels"]
    assert row.value == written
    assert (f"{stated} there" in row.note and f"to {tokens} a pair of frames" in row.note) == bool(tokens)


def test_few_frames_of_a_video_are_migrated(run: Run, edit) -> None:
    def few(data: dict[str, Any]) -> None:
        data["dataset_param"]["attr"]["videos"] = "videos"
        data["dataset_param"]["preprocess_parameters"]["video_maxlen"] = 3

    edit("data_7b.json", few)
    found = run()
    assert not made(found, "sft").problems
    assert (values(found, "sft")["data.video.min_frames"], values(found, "sft")["data.video.max_frames"]) == (3, 3)


@pytest.mark.parametrize("name", ["streaming", "train_on_prompt", "mask_history"])
def test_a_switch_written_as_text_is_a_problem_with_its_line(run: Run, edit, name: str) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update({name: "false"}))
    (problem,) = made(run(), "sft").problems
    assert problem.where.startswith("data_7b.json:")
    assert problem.key.endswith(name)
    assert problem.message == "is 'false'; it has to be true or false, without quotes"


def test_a_record_format_that_raised_an_error_is_told(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["attr"].update(formatting="alpaca"))
    (row,) = [row for row in run().ledger.left if row.said.endswith("formatting") and row.fate == "no_effect"]
    assert "raised an error there" in row.why


def test_a_list_of_validation_files_and_a_fraction_above_one(run: Run, edit) -> None:
    more = {"val_dataset": ["./data/v.json", "./data/w.json"], "val_rate": 1.5}
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(more))
    found = run()
    assert values(found, "sft")["data.validation"]["path"] == "data/v.json"
    assert any(left.said.endswith("val_dataset") and left.fate == "no_counterpart" for left in found.ledger.left)
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(val_dataset=None))
    (left,) = [left for left in run().ledger.left if left.said.endswith("val_rate")]
    assert (left.fate, left.value) == ("no_effect", "1.5")


def test_media_of_no_folder_are_those_of_the_working_directory(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(dataset_dir=""))
    found = run()
    assert values(found, "sft")["data.sources"][0]["media_root"] == "."
    assert not any("media are looked for" in text for _, text in found.ledger.remarks)


def test_images_and_videos_together_are_told(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["attr"].update(videos="videos"))
    (told,) = [text for _, text in run().ledger.remarks if "attr.images and attr.videos" in text]
    assert told.endswith("qvl reads both")


@pytest.mark.parametrize(("name", "option"), [("batch_size", "--micro-batch-size"), ("seed", "--seed")])
def test_a_loader_setting_that_the_script_replaced_is_a_contradiction(run: Run, edit, name: str, option: str) -> None:
    edit("data_7b.json", lambda data: data["dataloader_param"].update({name: 77}))
    (row,) = [row for row in run().ledger.contradictions if row.what.startswith(f"the data file's {name}")]
    assert [text.partition(" = ")[0] for _, text in row.places] == [f"dataloader_param.{name}", option]
    assert row.used == "the script's, as there"


def test_what_does_not_go_with_streaming_is_told(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(streaming=True))
    found = run()
    (row,) = [row for row in found.ledger.contradictions if row.what.startswith("streaming needs")]
    assert [text.rpartition(".")[2] for _, text in row.places] == [
        "streaming = true",
        "sampler_type = BaseRandomBatchSampler",
    ]
    (workers,) = [row for row in made(found, "sft").values if row.key == "data.workers"]
    assert (workers.value, workers.note[:7]) == (8, "0 there")
    edit("data_7b.json", lambda data: data["dataloader_param"].update(sampler_type="stateful_distributed_sampler"))
    assert not any(row.what.startswith("streaming needs") for row in run().ledger.contradictions)


def test_a_tag_that_is_no_name_is_told(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["attr"].update(system=5, user_tag=["user"]))
    told = {left.said.rpartition(".")[2] for left in run().ledger.left if left.fate == "unknown"}
    assert told == {"system", "user_tag"}
