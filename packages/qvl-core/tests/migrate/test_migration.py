"""Whole folders: the recipes equal ours, every setting is accounted for, and nothing wrong is written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from migrated_values import FINETUNE_FILE, ROOT, Run, flat, made, written
from qvl_core.cli.app import main
from qvl_core.errors import OutputError
from qvl_core.migrate import report
from qvl_core.migrate.migration import migrate, write
from qvl_core.recipe import load_recipe
from reference_stack_files import FINETUNE

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
    (workers,) = found.ledger.contradictions
    assert workers.what == "the data file's num_workers is not the script's --num-workers"
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


def test_a_recipe_that_does_not_pass_the_check_is_not_written(run: Run, change, tmp_path: Path) -> None:
    change(FINETUNE_FILE, "TP=1", "TP=3")
    found = run()
    problems = made(found, "sft").problems
    assert any(problem.key == "layout.tp" and problem.where.startswith(FINETUNE_FILE) for problem in problems)
    assert not any(path.name == "7b_sft.toml" for path in write(found, tmp_path / "out", {}))


def test_hostile_names_and_values_stay_inside_the_recipe(run: Run, edit, tmp_path: Path) -> None:
    odd = 'a"\n[output]\ndir = "/etc"\n#\x7f\\'
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(dataset=odd))
    found = written(run(), tmp_path / "out")["7b_sft"]
    assert found["output.dir"] == "save_dir"
    assert found["data.sources"][0]["path"] == odd


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


def test_what_a_script_sources_is_told(run: Run) -> None:
    (row,) = [row for row in run().ledger.left if row.said == "source"]
    assert (row.where, row.value) == (f"{FINETUNE_FILE}:2", "/usr/local/Ascend/ascend-toolkit/set_env.sh")


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


def test_an_output_that_is_a_folder_of_that_name_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "7b_sft.toml").mkdir(parents=True)
    with pytest.raises(OutputError, match="with other content"):
        write(run(), tmp_path / "out", {})
    with pytest.raises(OutputError, match="cannot be written"):
        write(run(), tmp_path / "out", {}, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(".tmp")] == []


def test_a_key_that_stands_twice_is_told_with_both_values(run: Run, change) -> None:
    change("data_7b.json", '"dataset_dir": "./data"', '"dataset_dir": "./other", "dataset_dir": "./data"')
    (row,) = [row for row in run().ledger.contradictions if row.what == "dataset_dir stands twice in one object"]
    assert [text.rpartition(".dataset_dir = ")[2] for _, text in row.places] == ["./other", "./data"]


def test_a_file_called_like_a_report_that_is_none_is_kept(stack: Path, capsys) -> None:
    assert main(["migrate", str(stack), "--out", "out"]) == 0
    assert main(["migrate", str(stack), "--out", "out"]) == 0
    Path("out/migration.txt").write_text("my notes")
    assert main(["migrate", str(stack), "--out", "out"]) == 2
    assert Path("out/migration.txt").read_text() == "my notes"
    assert main(["migrate", str(stack), "--out", "out", "--overwrite"]) == 0
    assert "my notes" not in Path("out/migration.txt").read_text()


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


def test_recipes_that_write_to_one_folder_are_told(run: Run, stack: Path) -> None:
    assert not any("write to one folder" in text for _, text in run().ledger.remarks)
    (stack / "finetune_qwen2_5_vl_7b_lora.sh").write_text(FINETUNE.replace("--bf16", "--lora-r 8 --bf16"))
    (told,) = [text for _, text in run().ledger.remarks if "write to one folder" in text]
    assert told.startswith("7b_sft.toml, 7b_lora_sft.toml write to one folder, save_dir")


def test_paths_below_a_folder_that_is_not_known(run: Run, change) -> None:
    change(FINETUNE_FILE, 'LOAD_PATH="ckpt', 'LOAD_PATH="$HOME/ckpt')
    change(FINETUNE_FILE, 'SAVE_PATH="save_dir"', 'SAVE_PATH="save_dir/$(date +%F)"')
    found = run()
    (loaded,) = [left for left in found.ledger.left if left.said == "--load" and left.where.startswith(FINETUNE_FILE)]
    assert (loaded.fate, loaded.value) == ("no_counterpart", "<not known>/ckpt/mm_path/Qwen2.5-VL-7B-Instruct")
    (saved,) = [row for row in made(found, "sft").values if row.key == "output.dir"]
    assert saved.value == "runs/7b_sft"
    assert saved.note.endswith("--save is not known")


def test_a_value_that_is_a_problem_is_not_said_to_agree(run: Run, change) -> None:
    change(FINETUNE_FILE, "--train-iters 10000", "--train-iters 0")
    found = run()
    assert [problem.key for problem in made(found, "sft").problems] == ["--train-iters"]
    assert not [left for left in found.ledger.left if left.said == "--train-iters"]


@pytest.mark.parametrize(
    ("name", "out", "command", "start"),
    [
        (".", "out", "qvl migrate .", "qvl run out/7b_sft.toml"),
        ("..", "out", "qvl migrate ..", "qvl run out/7b_sft.toml"),
        ("../my stack", "my out", "qvl migrate '../my stack'", "qvl run 'my out/7b_sft.toml'"),
    ],
)
def test_the_head_of_a_recipe_has_commands_that_can_be_pasted(
    stack: Path, monkeypatch: pytest.MonkeyPatch, name: str, out: str, command: str, start: str
) -> None:
    (stack / "below").mkdir()
    (stack.parent / "my stack").symlink_to(stack, target_is_directory=True)
    monkeypatch.chdir(stack / "below" if name == ".." else stack)
    found = migrate(Path(name), Path(out))
    head = made(found, "sft").text.splitlines()[:4]
    assert head[0].endswith(f"; made by `{command}`.")
    assert head[2].endswith(f" {start}")
    assert report.as_text(found, out).splitlines()[-1] == f"Next: {start.replace('qvl run', 'qvl data check')}"
