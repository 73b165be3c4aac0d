"""Whole folders: the recipes equal ours, every setting is accounted for, and bad input is told with its place."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qvl_core.cli.app import main
from qvl_core.errors import OutputError, RecipeError
from qvl_core.migrate import report
from qvl_core.migrate.migration import Made, Migration, migrate, write
from qvl_core.recipe import load_recipe
from reference_stack_files import DATA, FINETUNE

ROOT = Path(__file__).resolve().parents[4]
FINETUNE_FILE = "finetune_qwen2_5_vl_7b.sh"
Run = Callable[[], Migration]

# What the migrated training recipe has otherwise than recipes/7b_sft.toml, and why.
EXPLAINED = {
    "extends": "the migrated recipe stands alone",
    "output.dir": "the script's --save",
    "data.cache_dir": "the data file's cache_dir",
    "train.loss_reduction": "the reference's mean of micro batches; ours is per token (base/sft.toml says so)",
    "train.optimizer.clip_norm": "the script's 0.0; ours is 1.0 (base/sft.toml says so)",
    "train.save.every": "the script's 10000; ours is 500 (base/sft.toml says so)",
    "train.save.optimizer": "the script's --no-save-optim; ours saves it (base/sft.toml says so)",
}


def made(migration: Migration, task: str) -> Made:
    return next(one for one in migration.made if one.task == task)


def values(migration: Migration, task: str) -> dict[str, Any]:
    return {row.key: row.value for row in made(migration, task).values}


def flat(table: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


def written(migration: Migration, folder: Path) -> dict[str, dict[str, Any]]:
    write(migration, folder, {})
    return {path.stem: flat(load_recipe(path).resolved()) for path in folder.glob("*.toml")}


def test_the_guides_7b_gives_our_recipe_and_every_difference_is_explained(run: Run, tmp_path: Path) -> None:
    theirs = written(run(), tmp_path / "out")["7b_sft"]
    ours = flat(load_recipe(ROOT / "recipes" / "7b_sft.toml").resolved())
    different = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    assert different == set(EXPLAINED)


@pytest.mark.parametrize(
    ("size", "shape", "layout", "batch"),
    [
        ("3b", (36, 2048, 11008, 16, 2, 151936, 3420), (1, 1, 1, [32], [36]), 32),
        ("32b", (64, 5120, 27648, 40, 8, 152064, 3456), (2, 8, 2, [32] + [0] * 7, [1] + [9] * 7), 96),
        ("72b", (80, 8192, 29568, 64, 8, 152064, 3456), (2, 8, 8, [32] + [0] * 7, [6] + [11] * 6 + [8]), 96),
    ],
    ids=["3b", "32b", "72b"],
)
def test_the_other_sizes_give_our_recipes(stack: Path, size: str, shape, layout, batch: int, tmp_path: Path) -> None:
    layers, hidden, ffn, heads, groups, vocabulary, vision_ffn = shape
    tp, pp, nodes, vision, text = layout
    model = json.loads((stack / "model_7b.json").read_text())
    model["text_decoder"].update(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=groups,
        vocab_size=vocabulary,
        pipeline_num_layers=text,
        **({"recompute_granularity": "full"} if size == "72b" else {}),
    )
    model["image_encoder"]["vision_encoder"].update(ffn_hidden_size=vision_ffn, pipeline_num_layers=vision)
    script = FINETUNE.replace("_7b.json", f"_{size}.json").replace("TP=1", f"TP={tp}").replace("PP=4", f"PP={pp}")
    script = script.replace("NNODES=1", f"NNODES={nodes}").replace("GRAD_ACC_STEP=96", f"GRAD_ACC_STEP={batch}")
    data = (stack / "data_7b.json").read_text().replace("7B-Instruct", f"{size.upper()}-Instruct")
    for path in stack.iterdir():
        path.unlink()
    (stack / f"model_{size}.json").write_text(json.dumps(model, indent=1))
    (stack / f"data_{size}.json").write_text(data)
    (stack / f"finetune_qwen2_5_vl_{size}.sh").write_text(script.replace("152064", str(vocabulary)))
    found = migrate(stack, tmp_path / "out")
    assert not found.ledger.contradictions
    theirs = written(found, tmp_path / "out")[f"{size}_sft"]
    ours = flat(load_recipe(ROOT / "recipes" / f"{size}_sft.toml").resolved())
    different = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    assert different - {"launch.master"} == set(EXPLAINED)


def test_inference_and_evaluation_give_our_recipes_but_for_what_is_explained(run: Run, tmp_path: Path) -> None:
    found = written(run(), tmp_path / "out")
    for task, explained in (
        # Their picture, their variables; the video bounds are not stated, ours are those of the processor.
        ("infer", {"extends", "infer.images", "env.ASCEND_SLOG_PRINT_TO_STDOUT", "env.ASCEND_GLOBAL_LOG_LEVEL"}),
        # VLMEvalKit's generation is ours, 2048 tokens and no penalty; 256 and 1.05 are theirs, and one row at a time
        # (base/eval.toml). Ours has more rules.
        (
            "eval",
            {
                *("extends", "output.dir", "generation.max_new_tokens", "generation.repetition_penalty"),
                *("eval.batch", "eval.rules"),
            },
        ),
    ):
        ours = flat(load_recipe(ROOT / "recipes" / f"7b_{task}.toml").resolved())
        theirs = found[f"7b_{task}"]
        different = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
        loose = {key for key in different if key.startswith(("env.", "data.video.", "layout."))}
        assert different - loose <= explained
        assert not {key for key in loose if key.startswith("layout.") and "stages" not in key}


def test_every_value_names_its_line(run: Run, stack: Path) -> None:
    rows = {row.key: row for row in made(run(), "sft").values}
    lines = FINETUNE.splitlines()
    for key, expected in (
        ("train.optimizer.lr", "--lr 1.0e-5"),
        ("layout.pp", "PP=4"),
        ("train.global_batch", "GBS="),
        ("launch.devices_per_node", "NPUS_PER_NODE=8"),
        ("output.dir", 'SAVE_PATH="save_dir"'),
    ):
        file, _, line = rows[key].where.partition(":")
        assert file == FINETUNE_FILE
        assert expected in lines[int(line) - 1]
    file, _, line = rows["layout.text_stages"].where.partition(":")
    assert "pipeline_num_layers" in (stack / file).read_text().splitlines()[int(line) - 1]


def test_no_setting_is_passed_over_in_silence(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(brand_new=3))
    edit("model_7b.json", lambda model: model.update(another=4))
    found = run()
    unknown = {row.said.rpartition(".")[2] for row in found.ledger.left if row.fate == "unknown"}
    assert unknown == {"brand_new", "another"}
    told = {row.said.rpartition(".")[2] for row in found.ledger.left}
    carried = {row.said.rpartition(".")[2] for one in found.made for row in one.values}
    flags = {word for word in FINETUNE.split() if word.startswith("--")}
    written_flags = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    missing = written_flags - told - carried - {"--mm-data", "--mm-model", "--worker-num", "--master-port"}
    # The second of a pair is carried by the row of the first; parallel degrees by the launch.
    assert missing <= {"--adam-beta2"}
    assert {"dataset_type", "template", "use_fast_tokenizer", "sampler_type"} <= told
    assert {"TASK_QUEUE_ENABLE", "CUDA_DEVICE_MAX_CONNECTIONS", "ASCEND_LAUNCH_BLOCKING"} <= told


def test_contradictory_stage_lists_are_told_with_all_places_and_derived(run: Run, change) -> None:
    change(FINETUNE_FILE, "PP=4", "PP=2")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if "pp is 2" in row.what]
    assert {where.partition(":")[0] for where, _ in row.places} == {"model_7b.json", FINETUNE_FILE}
    assert len(row.places) == 3
    assert values(found, "sft")["layout.pp"] == 2
    assert not made(found, "sft").problems


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ([30, 2, 0, 0], [1, 10, 10, 7], "after"),
        ([32, 0, 0, 0], [1, 10, 10, 6], "27"),
        ([32, 0, 0], [1, 10, 10, 7], "3"),
    ],
)
def test_illegal_splits_are_told_and_not_written(run: Run, edit, vision, text, message: str) -> None:
    def split(model: dict[str, Any]) -> None:
        model["image_encoder"]["vision_encoder"]["pipeline_num_layers"] = vision
        model["text_decoder"]["pipeline_num_layers"] = text

    edit("model_7b.json", split)
    found = run()
    assert any(message in row.what for row in found.ledger.contradictions)
    assert "layout.text_stages" not in values(found, "sft")
    assert not made(found, "sft").problems


def test_a_list_in_a_list_is_one_list_and_several_are_an_interleaved_pipeline(run: Run, edit) -> None:
    def nested(model: dict[str, Any], more: list[Any]) -> None:
        model["image_encoder"]["vision_encoder"]["pipeline_num_layers"] = [[32, 0, 0, 0], *more]
        model["text_decoder"]["pipeline_num_layers"] = [[1, 10, 10, 7], *more]

    edit("model_7b.json", lambda model: nested(model, []))
    assert values(run(), "sft")["layout.text_stages"] == [1, 10, 10, 7]
    edit("model_7b.json", lambda model: nested(model, [[0, 0, 0, 0]]))
    found = run()
    assert "layout.text_stages" not in values(found, "sft")
    assert any("interleaved" in row.why for row in found.ledger.left)


def test_one_converted_folder_loaded_with_two_cuts_is_a_contradiction(run: Run) -> None:
    rows = [row for row in run().ledger.contradictions if "two cuts" in row.what]
    assert {where.partition(":")[0] for row in rows for where, _ in row.places} == {
        FINETUNE_FILE,
        "inference_qwen2_5_vl_7b.sh",
        "evaluate_qwen2_5_vl_7b.sh",
    }


def test_another_model_in_one_file_is_a_contradiction(run: Run, edit) -> None:
    def other(data: dict[str, Any]) -> None:
        data["dataset_param"]["preprocess_parameters"]["model_name_or_path"] = "./ckpt/Qwen2.5-VL-72B-Instruct"

    edit("data_7b.json", other)
    (row,) = [row for row in run().ledger.contradictions if "different models" in row.what]
    assert {where.partition(":")[0] for where, _ in row.places} == {"model_7b.json", "data_7b.json"}


def test_a_resized_model_is_told_number_by_number(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(ffn_hidden_size=9000))
    (row,) = [row for row in run().ledger.contradictions if "ffn_hidden_size" in row.what]
    assert "9000" in row.places[0][1]
    assert "18944" in row.places[1][1]


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


def test_labels_and_losses(run: Run, edit, change) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(mask_history=True))
    change(FINETUNE_FILE, "--bf16", "--calculate-per-token-loss --bf16")
    row = values(run(), "sft")
    assert (row["data.loss_on"], row["train.loss_reduction"]) == ("last_answer", "token")


def test_adapters_become_hf_projections(run: Run, change) -> None:
    change(FINETUNE_FILE, "--bf16", "--lora-r 8 --lora-alpha 16 --lora-target-modules linear_qkv linear_proj --bf16")
    row = values(run(), "sft")
    assert row["train.lora.targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (row["train.lora.rank"], row["train.lora.alpha"]) == (8, 16)


def test_recomputation_is_the_model_files(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(recompute_granularity="full"))
    assert values(run(), "sft")["layout.recompute"] == ["text"]


def test_variables_out_of_range_are_left_out_and_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "HCCL_CONNECT_TIMEOUT=1200", "HCCL_CONNECT_TIMEOUT=30")
    found = run()
    assert "env.HCCL_CONNECT_TIMEOUT" not in values(found, "sft")
    assert any("outside its range" in text for _, text in found.ledger.remarks)


def test_a_benchmark_and_the_file_of_another_contradict_each_other(run: Run, edit) -> None:
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value.update(dataset_path="./ChartQA_TEST.tsv"))
    assert any("that of chartqa_test" in row.what for row in run().ledger.contradictions)


@pytest.mark.parametrize(
    ("missing", "made_tasks", "said"),
    [
        (["data_7b.json"], {"infer", "eval"}, "the data file is not there"),
        (["model_7b.json"], {"sft", "infer", "eval"}, ""),
        ([FINETUNE_FILE], {"infer", "eval"}, ""),
        (["inference_qwen2_5_vl_7b.json"], {"sft", "eval"}, "no inference_*.json"),
        (["evaluate_qwen2_5_vl_7b.sh", "inference_qwen2_5_vl_7b.sh"], {"sft", "infer", "eval"}, ""),
    ],
)
def test_half_a_folder_gives_what_can_be_made(run: Run, stack: Path, missing, made_tasks, said: str) -> None:
    for name in missing:
        (stack / name).unlink()
    found = run()
    assert {one.task for one in found.made if not one.problems} == made_tasks
    problems = " ".join(problem.message for one in found.made for problem in one.problems)
    assert said in problems
    assert missing[0] in " ".join(text for row in found.ledger.remarks for text in row) or said or len(missing) > 0


def test_without_the_training_script_it_is_said_what_is_missing(run: Run, stack: Path) -> None:
    (stack / FINETUNE_FILE).unlink()
    assert any("no finetune_*.sh" in text for _, text in run().ledger.remarks)


def test_broken_json_stops_its_recipe_and_no_other(run: Run, stack: Path, change) -> None:
    change("data_7b.json", '"drop_last": true,', '"drop_last": true')
    found = run()
    assert found.broken[0].where.startswith("data_7b.json:")
    assert not found.complete
    assert {one.task for one in found.made if not one.problems} == {"infer", "eval"}
    assert "data_7b.json cannot be read" in made(found, "sft").problems[0].message


def test_a_number_that_is_none_is_told_with_its_line(run: Run, change) -> None:
    change(FINETUNE_FILE, "--lr 1.0e-5", "--lr fast")
    (problem, *_) = made(run(), "sft").problems
    assert problem.where.startswith(FINETUNE_FILE)
    assert "'fast'" in problem.message


def test_a_recipe_that_does_not_pass_the_check_is_not_written(run: Run, change, tmp_path: Path) -> None:
    change(FINETUNE_FILE, "TP=1", "TP=3")
    found = run()
    problems = made(found, "sft").problems
    assert any(problem.key == "layout.tp" and problem.where.startswith(FINETUNE_FILE) for problem in problems)
    assert not any(path.name == "7b_sft.toml" for path in write(found, tmp_path / "out", {}))


def test_values_that_a_command_makes_are_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--train-iters 10000", "--train-iters $(cat steps)")
    found = run()
    assert any(problem.key == "train.steps" for problem in made(found, "sft").problems)
    assert any("nothing is executed" in text for _, text in found.ledger.remarks)


def test_variants_of_a_size_share_its_files(run: Run, stack: Path) -> None:
    (stack / "finetune_qwen2_5_vl_7b_lora.sh").write_text(FINETUNE.replace("--bf16", "--lora-r 8 --bf16"))
    assert {one.name for one in run().made} >= {"7b_sft", "7b_lora_sft"}


def test_folders_with_nothing_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such folder"), (tmp_path, "holds none of")):
        with pytest.raises(RecipeError, match=message):
            migrate(path, tmp_path)


def test_pipes_folders_links_and_large_files_by_these_names_are_told(run: Run, stack: Path) -> None:
    os.mkfifo(stack / "data_3b.json")
    (stack / "model_3b.json").mkdir()
    (stack / "data_32b.json").symlink_to(stack / "nowhere")
    (stack / "data_72b.json").write_text("{" + " " * 300_000)
    (stack / "model_72b.json").write_bytes(b"\xff\xfe")
    broken = {problem.where.rpartition("/")[2] for problem in run().broken}
    assert broken == {"data_3b.json", "model_3b.json", "data_32b.json", "data_72b.json", "model_72b.json"}


def test_hostile_names_and_values_stay_inside_the_recipe(run: Run, edit, tmp_path: Path) -> None:
    odd = 'a"\n[output]\ndir = "/etc"\n#\x7f\\'
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(dataset=odd))
    found = written(run(), tmp_path / "out")["7b_sft"]
    assert found["output.dir"] == "save_dir"
    assert found["data.sources"][0]["path"] == odd


def test_the_report_has_everything_as_text_and_json(run: Run, stack: Path) -> None:
    (stack / "notes.txt").write_text("x")
    found = run()
    text, parsed = report.as_text(found, "out"), json.loads(report.as_json(found, "out"))
    assert "Contradictions" in text
    assert "Never had an effect" in text
    assert parsed["not_looked_at"] == ["notes.txt"]
    assert len(parsed["contradictions"]) == len(found.ledger.contradictions)
    sft = next(one for one in parsed["recipes"] if one["task"] == "sft")
    assert {"key": "train.steps", "value": 10000, "setting": "--train-iters", "note": ""}.items() <= next(
        row for row in sft["values"] if row["key"] == "train.steps"
    ).items()


def test_the_command_writes_recipes_and_reports_and_keeps_what_was_changed(stack: Path, capsys) -> None:
    assert main(["migrate", str(stack), "--out", "new"]) == 0
    names = {path.name for path in Path("new").iterdir()}
    assert names == {"7b_sft.toml", "7b_infer.toml", "7b_eval.toml", "migration.txt", "migration.json"}
    assert main(["check", *map(str, Path("new").glob("*.toml"))]) == 0
    assert main(["migrate", str(stack), "--out", "new"]) == 0
    Path("new/7b_sft.toml").write_text("mine")
    assert main(["migrate", str(stack), "--out", "new"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert Path("new/7b_sft.toml").read_text() == "mine"
    assert main(["migrate", str(stack), "--out", "new", "--overwrite", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True


def test_an_output_that_cannot_be_written_is_refused(run: Run, stack: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write(run(), tmp_path / "file" / "out", {})


def test_too_few_devices_are_told_with_the_machines_that_are_needed(run: Run, change) -> None:
    change(FINETUNE_FILE, "TP=1", "TP=4")
    (problem, *_) = made(run(), "sft").problems
    assert problem.where == f"{FINETUNE_FILE}:{FINETUNE.splitlines().index('NPUS_PER_NODE=8') + 1}"
    assert "makes 8 devices in all; tp 4 x pp 4 needs 16" in problem.message
    assert problem.fix.startswith("NNODES=2")


def test_a_batch_that_is_not_the_product_of_its_parts_is_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--global-batch-size ${GBS}", "--global-batch-size 64")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if "make 192 samples, not 64" in row.what]
    assert len(row.places) == 2
    assert values(found, "sft")["train.global_batch"] == 64


def test_two_hf_folders_for_one_model_are_told(run: Run, edit) -> None:
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value["tokenizer"].update(from_pretrained="./other/Qwen-7B"))
    (row,) = [row for row in run().ledger.contradictions if "two HF folders" in row.what]
    assert {where.partition(":")[0] for where, _ in row.places} == {"data_7b.json", "evaluate_qwen2_5_vl_7b.json"}


def test_a_fraction_held_out_of_a_stream_never_had_an_effect(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(streaming=True, val_rate=0.1))
    found = run()
    assert "data.validation" not in values(found, "sft")
    assert not made(found, "sft").problems
    assert any(row.said.endswith("val_rate") for row in found.ledger.left if row.fate == "no_effect")


def test_a_torch_launch_is_read_as_well(run: Run, stack: Path) -> None:
    path = stack / FINETUNE_FILE
    text = (
        path.read_text()
        .replace("--local_worker_num", "--nproc_per_node")
        .replace("--worker_num $WORLD_SIZE", "--nnodes $NNODES")
    )
    path.write_text(text.replace("msrun $DIST", "torchrun $DIST"))
    row = values(run(), "sft")
    assert (row["launch.devices_per_node"], row["launch.nodes"], row["train.global_batch"]) == (8, 1, 192)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_folders_give_a_report_or_a_problem_and_nothing_else(run: Run, stack: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        path = rng.choice(sorted(stack.iterdir()))
        text = path.read_text(encoding="utf-8")
        at = rng.randrange(max(1, len(text)))
        cut = text[:at] if rng.random() < 0.3 else text[: at + 1] + rng.choice("\"$({\\\n'`0,") + text[at + 2 :]
        path.write_text(cut, encoding="utf-8")
    found = run()
    assert report.as_text(found, "out")
    for one in found.made:
        assert one.problems or one.text


def test_a_variable_that_is_not_what_its_option_says_is_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--micro-batch-size ${MBS}", "--micro-batch-size 2")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if row.what.startswith("MBS is not")]
    assert [text for _, text in row.places] == ["MBS = 1", "--micro-batch-size = 2"]
    assert values(found, "sft")["train.micro_batch"] == 2


def test_a_checkout_is_searched_and_what_is_left_is_told(stack: Path, edit) -> None:
    root = stack.parent / "MindSpeed-MM"
    ours = root / "examples" / "mindspore" / "qwen2.5vl"
    for name in ("examples/qwen2vl", "examples/internvl2", "examples/qwen2.5vl", ".git/examples/qwen2.5vl"):
        shutil.copytree(stack, root / name)
    ours.parent.mkdir()
    stack.rename(ours)
    found = migrate(root, Path("out"))
    assert found.folder == str(ours)
    assert found.complete
    (told,) = [text for where, text in found.ledger.remarks if where == str(ours)]
    assert "left alone: examples/internvl2 (another model), examples/qwen2.5vl (Qwen2.5-VL too), " in told
    assert "examples/qwen2vl (another model)" in told
    assert ".git" not in told


def test_a_checkout_without_ours_names_what_is_there(stack: Path) -> None:
    shutil.copytree(stack, stack.parent / "root" / "qwen2vl")
    shutil.copytree(stack, stack.parent / "root" / "internvl2")
    with pytest.raises(RecipeError) as caught:
        migrate(stack.parent / "root", Path("out"))
    assert caught.value.problems[0].message.endswith("; internvl2, qwen2vl hold some")


def test_dos_line_ends_change_nothing(run: Run, stack: Path) -> None:
    before = values(run(), "sft")
    path = stack / FINETUNE_FILE
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert values(run(), "sft") == before


def test_what_a_script_sources_is_told(run: Run) -> None:
    (row,) = [row for row in run().ledger.left if row.said == "source"]
    assert (row.where, row.value) == (f"{FINETUNE_FILE}:2", "/usr/local/Ascend/ascend-toolkit/set_env.sh")


def test_workers_of_the_data_file_never_had_an_effect(run: Run, change) -> None:
    change(FINETUNE_FILE, " \\\n    --num-workers 8", "")
    found = run()
    assert "data.workers" not in values(found, "sft")
    assert any(row.said == "dataloader_param.num_workers" for row in found.ledger.left if row.fate == "no_effect")


def test_evaluation_is_scored_by_both_rules_and_asked_as_it_was(run: Run, edit) -> None:
    row = values(run(), "eval")
    assert (row["eval.rules"], row["eval.prompts"]) == (["vlmevalkit-2025-09", "mindspeed"], "custom")
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value.update(use_custom_prompt=False))
    assert values(run(), "eval")["eval.prompts"] == "default"


def test_two_files_of_one_size_are_kept_apart(run: Run, stack: Path) -> None:
    for name in ("data_7b.json", FINETUNE_FILE):
        text = (stack / name).read_text()
        (stack / name.replace("qwen2_5_vl_7b", "7b").replace("data_7b", "data_qwen2_5_vl_7b")).write_text(text)
    found = run()
    assert sorted(one.name for one in found.made if one.task == "sft") == ["7b_sft", "qwen2_5_vl_7b_sft"]
    assert not any(one.problems for one in found.made)
    assert ("data_qwen2_5_vl_7b.json", "no script uses it") in found.ledger.remarks


def test_what_a_sourced_file_states_has_its_place_and_contradictions_both(run: Run, stack: Path, change) -> None:
    (stack / "common.sh").write_text("# gemeinsam\nMBS=1\nSEQ_LEN=2048\n")
    change(FINETUNE_FILE, "MBS=1\n", "")
    change(FINETUNE_FILE, "SEQ_LEN=1024\n", "SEQ_LEN=1024\nsource examples/common.sh\n")
    found = run()
    rows = {row.key: row for row in made(found, "sft").values}
    assert (rows["train.micro_batch"].value, rows["train.micro_batch"].where) == (1, "common.sh:2")
    assert (rows["data.sequence_length"].value, rows["data.sequence_length"].where) == (2048, "common.sh:3")
    (row,) = [row for row in found.ledger.contradictions if row.what == "SEQ_LEN is stated twice"]
    assert [where.rpartition(":")[0] for where, _ in row.places] == [FINETUNE_FILE, "common.sh"]
    assert "common.sh" not in found.unread


def test_variables_that_the_program_never_saw(run: Run, change) -> None:
    change(FINETUNE_FILE, "export HCCL_CONNECT_TIMEOUT=1200", "HCCL_CONNECT_TIMEOUT=1200\nexport HCCL_EXEC_TIMOUT=1")
    found = run()
    assert "env.HCCL_CONNECT_TIMEOUT" not in values(found, "sft")
    why = {row.said: row.why for row in found.ledger.left if row.fate == "no_effect"}
    assert "was not exported" in why["HCCL_CONNECT_TIMEOUT"]
    assert "HCCL_EXEC_TIMEOUT was probably meant" in why["HCCL_EXEC_TIMOUT"]


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "", "data_7b.json"])
def test_folders_that_cannot_be_are_refused(run: Run, stack: Path, path: str) -> None:
    with pytest.raises(RecipeError):
        migrate(stack / path if path == "data_7b.json" else Path(path or "nowhere"), Path("out"))


def test_every_key_of_the_model_file_is_compared_or_named(run: Run, edit) -> None:
    def change(model: dict[str, Any]) -> None:
        model["image_token_id"] = 7
        model["text_decoder"] |= {
            "rope_theta": 10000,
            "hidden_dropout": 0.1,
            "knob_of_tomorrow": 3,
            "rms_norm_eps": 1e-6,
        }
        model["image_encoder"]["vision_encoder"] |= {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 56}

    edit("model_7b.json", change)
    found = run()
    told = {row.what for row in found.ledger.contradictions if "of qwen2.5-vl-7b" in row.what}
    assert told == {f"{name} is not that of qwen2.5-vl-7b" for name in ("image_token_id", "rope_theta", "window_size")}
    assert any(row.said == "text_decoder.hidden_dropout" for row in found.ledger.left)
    assert any("knob_of_tomorrow" in text for _, text in found.ledger.remarks)


@pytest.mark.parametrize("name", ["TP", "PP", "MBS", "SEQ_LEN"])
def test_a_number_that_decides_and_cannot_be_known_keeps_the_recipe_from_being_written(
    run: Run, change, name: str
) -> None:
    value = {"TP": "1", "PP": "4", "MBS": "1", "SEQ_LEN": "1024"}[name]
    change(FINETUNE_FILE, f"\n{name}={value}\n", f"\n{name}=$(python choose.py)\n")
    problems = made(run(), "sft").problems
    assert any("made by a command" in one.message and one.fix == "write the number into the script" for one in problems)


def test_a_batch_made_of_the_devices_that_a_command_counts_keeps_its_accumulation(run: Run, change) -> None:
    change(FINETUNE_FILE, "NPUS_PER_NODE=8", 'NPUS_PER_NODE=$(npu-smi info -l | grep -c "NPU ID")')
    rows = {row.key: row for row in made(run(), "sft").values}
    assert (rows["launch.devices_per_node"].value, rows["train.global_batch"].value) == (4, 96)
    assert "96 x 1 replicas" in rows["train.global_batch"].note
    change(FINETUNE_FILE, "GRAD_ACC_STEP=96", "GRAD_ACC_STEP=$STEPS")
    assert made(run(), "sft").problems


def test_all_comments_of_a_file_are_told_with_their_lines(run: Run, stack: Path, change) -> None:
    change("data_7b.json", "{\n", "{ // mine\n")
    change("data_7b.json", '"dataset_type": "huggingface",', '"dataset_type": "huggingface", # theirs')
    (problem,) = run().broken
    assert problem.where == "data_7b.json:1"
    assert "line 3: a comment" in problem.message


def test_a_folder_far_below_is_found_and_the_folder_of_a_file_is_told(stack: Path, tmp_path: Path) -> None:
    far = tmp_path / "a" / "b" / "c" / "d"
    far.mkdir(parents=True)
    stack.rename(far / "qwen2.5vl")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert migrate(tmp_path, Path("out")).folder == str(far / "qwen2.5vl")
    with pytest.raises(RecipeError) as caught:
        migrate(far / "qwen2.5vl" / "data_7b.json", Path("out"))
    assert caught.value.problems[0].fix == f"qvl migrate {far / 'qwen2.5vl'}"


def test_records_that_are_called_like_settings_are_left_alone(run: Run, stack: Path, change) -> None:
    (stack / "data_coco.json").write_text("\ufeff\n[" + '{"messages": []},' * 50_000)
    found = run()
    assert (found.broken, found.unread, found.complete) == ((), ("data_coco.json (records)",), True)
    change(FINETUNE_FILE, "/data_7b.json", "/data_coco.json")
    assert any(text.endswith("data_coco.json, which holds records, not settings") for _, text in run().ledger.remarks)


def test_an_output_that_is_a_folder_of_that_name_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "7b_sft.toml").mkdir(parents=True)
    with pytest.raises(OutputError, match="with other content"):
        write(run(), tmp_path / "out", {})
    with pytest.raises(OutputError, match="cannot be written"):
        write(run(), tmp_path / "out", {}, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize(("pipeline", "nodes"), [("PP=4", 1), ("PP=8\nTP=2", 2)])
def test_machines_that_a_host_file_counts_are_as_many_as_the_layout_needs_and_told(
    run: Run, change, edit, pipeline: str, nodes: int
) -> None:
    change(FINETUNE_FILE, "NNODES=1", "HOSTFILE=hosts.txt\nNNODES=$(cat $HOSTFILE | wc -l)")
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=$(head -n1 $HOSTFILE | awk '{print $1;}')")
    change(FINETUNE_FILE, "TP=1\nPP=4", pipeline if nodes > 1 else f"TP=1\n{pipeline}")
    found = run()
    row = values(found, "sft")
    assert not made(found, "sft").problems
    assert (row["launch.nodes"], row["launch.devices_per_node"]) == (nodes, 8)
    assert row["layout.dp"] == (1 if nodes > 1 else 2)
    assert f"nodes = {nodes}  # not known: as few as the layout needs" in made(found, "sft").text
    told = " ".join(text for _, text in found.ledger.remarks)
    assert f"NNODES is not known: launch.nodes = {nodes} is taken" in told
    assert "--master-addr is not known: launch.master = localhost:29501 is taken" in told


def test_processes_that_are_stated_give_the_machines_that_are_not(run: Run, change) -> None:
    change(FINETUNE_FILE, "NNODES=1", "NNODES=$(cat hosts.txt | wc -l)")
    change(FINETUNE_FILE, "WORLD_SIZE=$(($NPUS_PER_NODE * $NNODES))", "WORLD_SIZE=32")
    found = run()
    assert (values(found, "sft")["launch.nodes"], values(found, "sft")["layout.dp"]) == (4, 8)
    assert not any("processes" in row.what for row in found.ledger.contradictions)


def test_devices_that_a_command_counts_are_not_called_unstated(run: Run, change) -> None:
    change(FINETUNE_FILE, "NPUS_PER_NODE=8", "NPUS_PER_NODE=$(ls /dev/davinci* | wc -l)")
    told = [text for _, text in run().ledger.remarks]
    assert any("is not known: launch.devices_per_node = 4 is taken" in text for text in told)
    assert not any("no device count is stated" in text for text in told)


def test_devices_that_the_layout_does_not_divide_are_told_in_the_script(run: Run, change) -> None:
    change(FINETUNE_FILE, "NPUS_PER_NODE=8", "NPUS_PER_NODE=6")
    (problem,) = made(run(), "sft").problems
    line = next(number for number, line in enumerate(FINETUNE.splitlines(), 1) if line.startswith("NPUS_PER_NODE"))
    assert problem.where == f"{FINETUNE_FILE}:{line}"
    assert (problem.message, problem.fix) == (
        "makes 6 devices in all, no multiple of tp 1 x pp 4 = 4",
        "4 devices in all, or a layout that divides 6",
    )


def test_few_frames_of_a_video_are_migrated(run: Run, edit) -> None:
    def few(data: dict[str, Any]) -> None:
        data["dataset_param"]["attr"]["videos"] = "videos"
        data["dataset_param"]["preprocess_parameters"]["video_maxlen"] = 3

    edit("data_7b.json", few)
    found = run()
    assert not made(found, "sft").problems
    assert (values(found, "sft")["data.video.min_frames"], values(found, "sft")["data.video.max_frames"]) == (3, 3)


def test_a_key_that_stands_twice_is_told_with_both_values(run: Run, change) -> None:
    change("data_7b.json", '"dataset_dir": "./data"', '"dataset_dir": "./other", "dataset_dir": "./data"')
    (row,) = [row for row in run().ledger.contradictions if row.what == "dataset_dir stands twice in one object"]
    assert [text.rpartition(".dataset_dir = ")[2] for _, text in row.places] == ["./other", "./data"]


def test_a_script_that_another_sources_keeps_its_recipe_if_it_starts_a_program(run: Run, stack: Path, change) -> None:
    text = f'source ./{FINETUNE_FILE}\nsource ./finetune_base_7b.sh\nGPT_ARGS="$GPT_ARGS --lora-r 8"\n'
    text += "msrun $DISTRIBUTED_ARGS pretrain_vlm.py $GPT_ARGS $MM_ARGS $OUTPUT_ARGS\n"
    (stack / "finetune_qwen2_5_vl_7b_lora.sh").write_text(text)
    (stack / "finetune_base_7b.sh").write_text("export HCCL_EXEC_TIMEOUT=3600\n")
    change(FINETUNE_FILE, "#!/bin/bash\n", f"#!/bin/bash\nsource ./{FINETUNE_FILE}\n")
    found = {one.name: one for one in run().made if one.task == "sft"}
    assert set(found) == {"7b_sft", "7b_lora_sft"}
    assert not any(one.problems for one in found.values())
    ranks = {name: [row.value for row in one.values if row.key == "train.lora.rank"] for name, one in found.items()}
    assert ranks == {"7b_sft": [], "7b_lora_sft": [8]}


def test_another_optimizer_is_not_called_adamw_by_the_script(run: Run, change) -> None:
    change(FINETUNE_FILE, "--bf16", "--optimizer sgd --bf16")
    found = run()
    (row,) = [row for row in made(found, "sft").values if row.key == "train.optimizer.name"]
    assert (row.value, row.where) == ("adamw", "")
    (left,) = [left for left in found.ledger.left if left.said == "--optimizer"]
    assert (left.fate, left.value) == ("no_counterpart", "sgd")
    change(FINETUNE_FILE, "--optimizer sgd", "--optimizer adam")
    (row,) = [row for row in made(run(), "sft").values if row.key == "train.optimizer.name"]
    assert row.said == "--optimizer"


@pytest.mark.parametrize("stated", ["false", 0, 1])
def test_a_freeze_that_is_no_switch_is_a_problem_with_its_line(run: Run, edit, stated: object) -> None:
    edit("model_7b.json", lambda model: model["image_encoder"]["vision_encoder"].update(freeze=stated))
    (problem,) = made(run(), "sft").problems
    assert problem.where.startswith("model_7b.json:")
    assert problem.key.endswith("vision_encoder.freeze")
    assert "true or false" in problem.message


def test_fields_of_the_shipped_files_that_do_nothing_here_are_known(run: Run, edit, change) -> None:
    def more(value: dict[str, Any]) -> None:
        neutral = {"min_length": 0, "typical_p": 1.0, "early_stopping": False, "num_assistant_tokens": 5}
        value["generation_config"].update(**neutral, length_penalty=2.0)
        value["patch"] = {"infer_fa": True}

    edit("evaluate_qwen2_5_vl_7b.json", more)
    basic = {"preprocessing_num_workers": 16}
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(basic))
    change(
        "evaluate_qwen2_5_vl_7b.sh", "--bf16", "--bf16 --lr 1e-5 --log-interval 1 --save-interval 9 --eval-interval 9"
    )
    found = run()
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []
    told = {left.said.rpartition(".")[2]: left.fate for left in found.ledger.left}
    assert told["length_penalty"] == told["infer_fa"] == told["preprocessing_num_workers"] == "no_counterpart"
    evaluate = {
        left.said: left.fate for left in found.ledger.left if left.where.startswith("evaluate_qwen2_5_vl_7b.sh")
    }
    assert {evaluate[name] for name in ("--lr", "--log-interval", "--save-interval", "--eval-interval")} == {
        "no_effect"
    }
    (named,) = [text for where, text in found.ledger.remarks if where.startswith("evaluate") and "nothing:" in text]
    assert all(name in named for name in ("min_length", "typical_p", "early_stopping", "num_assistant_tokens"))


OTHER_MODELS = [
    ({"model_id": "qwen2vl"}, "qwen2lm", "./ckpt/hf/Qwen2-VL-7B-Instruct"),
    ({"model_id": "InternVL"}, "internllm", "raw_ckpt/InternVL2_5-78B"),
    ({}, "qwen2lm", "/data/Qwen2-VL-7B-Instruct/"),
]


@pytest.mark.parametrize(("top", "text_model", "path"), OTHER_MODELS)
def test_files_of_another_model_are_refused(run: Run, edit, top: dict[str, str], text_model: str, path: str) -> None:
    def another(model: dict[str, Any]) -> None:
        model.pop("model_id", None)
        model.update(top)
        model["text_decoder"]["model_id"] = text_model

    edit("model_7b.json", another)
    edit("data_7b.json", lambda d: d["dataset_param"]["preprocess_parameters"].update(model_name_or_path=path))
    found = made(run(), "sft")
    assert [problem.where.partition(":")[0] in ("model_7b.json", "data_7b.json") for problem in found.problems] == [
        True
    ]
    assert "a file of another model" in found.problems[0].message
    assert [one.task for one in run().made if not one.problems] == ["infer", "eval"]
    assert not any("data_7b.json" in row.where or FINETUNE_FILE in row.where for row in run().ledger.left)


def test_one_name_of_another_model_beside_ours_is_a_contradiction(run: Run, edit) -> None:
    edit("data_7b.json", lambda d: d["dataset_param"]["preprocess_parameters"].update(model_name_or_path="Qwen2-VL-7B"))
    found = run()
    assert not made(found, "sft").problems
    assert any(row.what == "the files speak of another model too" for row in found.ledger.contradictions)


def test_without_a_name_inside_the_file_names_decide(stack: Path, run: Run, edit) -> None:
    edit("data_7b.json", lambda d: d["dataset_param"]["preprocess_parameters"].update(model_name_or_path="ckpt/7B"))
    (stack / "model_7b.json").unlink()
    (stack / FINETUNE_FILE).rename(stack / "finetune_qwen2vl_7b.sh")
    assert made(run(), "sft").problems == () or stack.name == "qwen2.5vl"
    stack.rename(stack.parent / "qwen2vl")
    (problem,) = next(one for one in migrate(stack.parent / "qwen2vl", Path("out")).made if one.task == "sft").problems
    assert "finetune_qwen2vl_7b.sh" in problem.message


def test_many_other_files_are_named_in_short_and_all_in_json(run: Run, stack: Path) -> None:
    for number in range(300):
        (stack / f"{number:03}.jpg").touch()
    found = run()
    assert report.as_text(found, "out").rstrip().endswith("039.jpg and 260 more")
    assert len(json.loads(report.as_json(found, "out"))["not_looked_at"]) == 300


def test_a_file_called_like_a_report_that_is_none_is_kept(stack: Path, capsys) -> None:
    assert main(["migrate", str(stack), "--out", "out"]) == 0
    assert main(["migrate", str(stack), "--out", "out"]) == 0
    Path("out/migration.txt").write_text("my notes")
    assert main(["migrate", str(stack), "--out", "out"]) == 2
    assert Path("out/migration.txt").read_text() == "my notes"
    assert main(["migrate", str(stack), "--out", "out", "--overwrite"]) == 0
    assert "my notes" not in Path("out/migration.txt").read_text()


def test_what_is_not_known_prints_as_words(run: Run, change) -> None:
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=localhost\nMASTER_ADDR=$(hostname -i)")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if row.what.startswith("MASTER_ADDR")]
    assert row.places[1][1] == "MASTER_ADDR = <not known>"
    assert "\ue000" not in report.as_text(found, "out") + report.as_json(found, "out")


@pytest.mark.parametrize("name", ["streaming", "train_on_prompt", "mask_history"])
def test_a_switch_written_as_text_is_a_problem_with_its_line(run: Run, edit, name: str) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update({name: "false"}))
    (problem,) = made(run(), "sft").problems
    assert problem.where.startswith("data_7b.json:")
    assert problem.key.endswith(name)
    assert problem.message == "is 'false'; it has to be true or false, without quotes"


def test_a_number_written_as_text_is_told_from_the_number(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(num_layers="28"))
    (row,) = [row for row in run().ledger.contradictions if row.what.startswith("num_layers")]
    assert [text for _, text in row.places] == ['text_decoder.num_layers = "28"', "text_decoder.num_layers = 28"]


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_a_number_is_told_with_its_line(run: Run, change, written: str) -> None:
    change("data_7b.json", '"video_fps": 2.0', f'"video_fps": {written}')
    (problem,) = run().broken
    assert problem.where.startswith("data_7b.json:")
    assert problem.message == f"{written} stands where a value is expected"
    assert problem.fix == "write the number, or null"


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("text_decoder", "normalization", "LayerNorm"),
        ("text_decoder", "activation_func", "gelu"),
        ("text_decoder", "position_embedding_type", "rope"),
        ("text_decoder", "params_dtype", "fp16"),
        ("text_decoder", "untie_embeddings_and_output_weights", False),
        ("vision_encoder", "window_attn_size", 224),
        ("vision_projector", "hidden_size", 2048),
        ("vision_projector", "ffn_hidden_size", 4096),
    ],
)
def test_a_structure_that_is_not_the_published_one_is_told(run: Run, edit, table: str, key: str, value: object) -> None:
    def apply(model: dict[str, Any]) -> None:
        (model if table == "text_decoder" else model["image_encoder"])[table][key] = value

    edit("model_7b.json", apply)
    (row,) = [row for row in run().ledger.contradictions if row.what == f"{key} is not that of qwen2.5-vl-7b"]
    assert row.places[0][0].startswith("model_7b.json:")


def test_the_published_values_of_the_structure_are_no_contradiction(run: Run, edit) -> None:
    text = {"normalization": "RMSNorm", "rope_scaling": None, "params_dtype": "bf16", "seq_length": 1024}
    edit("model_7b.json", lambda m: m["text_decoder"].update(text, untie_embeddings_and_output_weights=True))
    edit("model_7b.json", lambda m: m["image_encoder"]["vision_projector"].update(hidden_size=3584, input_size=1280))
    assert not any("is not that of" in row.what for row in run().ledger.contradictions)
    edit("model_7b.json", lambda m: m["text_decoder"].update(seq_length=2048))
    assert any(row.what == "two sequence lengths" for row in run().ledger.contradictions)


def test_adapters_sit_in_what_is_not_frozen(run: Run, change, edit) -> None:
    change(FINETUNE_FILE, "--bf16", "--bf16 --lora-r 8 --lora-target-modules linear_qkv linear_fc1")
    assert "train.lora.components" not in values(run(), "sft")
    edit("model_7b.json", lambda m: m["image_encoder"]["vision_encoder"].update(freeze=False))
    found = values(run(), "sft")
    assert found["train.lora.components"] == ["text", "vision"]
    assert found["train.lora.targets"] == ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "qkv"]
    edit("model_7b.json", lambda m: m["image_encoder"]["vision_projector"].update(freeze=False))
    found = run()
    assert values(found, "sft")["train.lora.components"] == ["text", "vision", "merger"]
    assert not made(found, "sft").problems


def test_a_value_of_two_settings_names_both_places(run: Run) -> None:
    notes = {row.key: row.note for row in made(run(), "sft").values}
    assert "vision_projector.freeze" in notes["model.freeze"]
    assert "--adam-beta2" in notes["train.optimizer.betas"]
    assert "--master-port" in notes["launch.master"]


def test_a_host_file_beside_the_script_gives_machines_and_master(run: Run, stack: Path, change) -> None:
    (stack / "hosts").write_text("10.1.0.7\n10.1.0.8\n")
    change(FINETUNE_FILE, "NNODES=1", "H=./hosts\nNNODES=$(cat $H | wc -l)")
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=$(head -n1 ./hosts | awk '{print $1;}')")
    found = run()
    row = values(found, "sft")
    assert (row["launch.nodes"], row["launch.master"], row["layout.dp"]) == (2, "10.1.0.7:29501", 4)
    assert any("which lies beside the script" in text for _, text in found.ledger.remarks)


def test_a_sweep_gives_a_recipe_of_its_first_round_and_says_so(run: Run, change) -> None:
    text = FINETUNE
    start = text.index("msrun ")
    body = text[start:].replace("1.0e-5", "$LR")
    change(FINETUNE_FILE, text[start:], f"train() {{\n{body}\n}}\nfor LR in 2e-6 1e-6; do\n  train\ndone\n")
    change(FINETUNE_FILE, "--lr 1.0e-5", "--lr \\$LR")
    change(FINETUNE_FILE, "  train\n", "  GPT_ARGS=\"${GPT_ARGS/'$LR'/$LR}\"; train\n")
    found = run()
    told = [text for _, text in found.ledger.remarks]
    assert any("a loop starts the program for LR = 2e-6, 1e-6: only LR = 2e-6 is read" in text for text in told)
    assert any("started by train, a function" in text for text in told)


def test_a_record_format_that_raised_an_error_is_told(run: Run, edit) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["attr"].update(formatting="alpaca"))
    (row,) = [row for row in run().ledger.left if row.said.endswith("formatting") and row.fate == "no_effect"]
    assert "raised an error there" in row.why


def test_a_benchmark_that_is_not_known_is_told_with_its_line(run: Run, edit) -> None:
    edit("evaluate_qwen2_5_vl_7b.json", lambda d: d.update(evaluation_dataset="mmbench", dataset_path=""))
    problems = made(run(), "eval").problems
    assert [problem.key for problem in problems] == ["eval.benchmark", "eval.data"]
    assert all(problem.where.startswith("evaluate_qwen2_5_vl_7b.json:") for problem in problems)
