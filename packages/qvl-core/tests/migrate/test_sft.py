"""Training: batch, losses, optimizer, adapters, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from migrated_values import FINETUNE_FILE, Run, made, values


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


def test_a_number_that_is_none_is_told_with_its_line(run: Run, change) -> None:
    change(FINETUNE_FILE, "--lr 1.0e-5", "--lr fast")
    (problem, *_) = made(run(), "sft").problems
    assert problem.where.startswith(FINETUNE_FILE)
    assert "'fast'" in problem.message


def test_values_that_a_command_makes_are_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--train-iters 10000", "--train-iters $(cat steps)")
    found = run()
    assert any(problem.key == "train.steps" for problem in made(found, "sft").problems)
    assert any("nothing is executed" in text for _, text in found.ledger.remarks)


@pytest.mark.parametrize(
    ("old", "option", "key"),
    [
        ("--train-iters 10000", "--train-iters", "train.steps"),
        ("--train-iters 10000", "--train-samples", "train.steps"),
        ("--lr 1.0e-5", "--lr", "train.optimizer.lr"),
    ],
)
def test_a_number_that_a_command_makes_is_not_said_to_be_missing(
    run: Run, change, old: str, option: str, key: str
) -> None:
    change(FINETUNE_FILE, old, f"{option} $(cat wanted)")
    (problem,) = made(run(), "sft").problems
    assert problem.key == key
    assert problem.where.startswith(f"{FINETUNE_FILE}:")
    assert problem.message.startswith(f"{option} is made by a command")
    change(FINETUNE_FILE, f"{option} $(cat wanted)", "")
    (problem,) = made(run(), "sft").problems
    assert problem.message.startswith("no file ")


def test_a_rate_that_is_no_number_is_one_problem(run: Run, change) -> None:
    change(FINETUNE_FILE, "--lr 1.0e-5", "--lr fast")
    (problem,) = made(run(), "sft").problems
    assert problem.key == "--lr"


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ("--weight-decay 0", "train.optimizer.weight_decay"),
        ("--clip-grad 0.0", "train.optimizer.clip_norm"),
        ("--lr-warmup-fraction 0.1", "train.schedule.warmup"),
        ("--lr-decay-style cosine", "train.schedule.name"),
        ("--seed 42", "train.seed"),
        ("--log-interval 1", "train.log.every"),
    ],
)
def test_a_default_in_place_of_what_a_command_makes_is_told_as_that(run: Run, change, old: str, key: str) -> None:
    option = old.split()[0]
    change(FINETUNE_FILE, old, f"{option} $(cat wanted)")
    (note,) = [row.note for row in made(run(), "sft").values if row.key == key]
    assert note.startswith(f"{FINETUNE_FILE}:")
    assert f" {option} is not known: Megatron's default" in note
    change(FINETUNE_FILE, f"{option} $(cat wanted)", "")
    (note,) = [row.note for row in made(run(), "sft").values if row.key == key]
    assert note == "not stated: Megatron's default"


@pytest.mark.parametrize(
    ("unknown", "stated", "betas"), [("beta1", "beta2 0.9", [0.9, 0.9]), ("beta2", "beta1 0.8", [0.8, 0.999])]
)
def test_one_beta_that_a_command_makes_is_told(run: Run, change, unknown: str, stated: str, betas: list[float]) -> None:
    change(FINETUNE_FILE, "--adam-beta1 0.9", "")
    change(FINETUNE_FILE, "--adam-beta2 0.999", f"--adam-{stated} --adam-{unknown} $(cat wanted)")
    (row,) = [row for row in made(run(), "sft").values if row.key == "train.optimizer.betas"]
    assert (row.value, row.said) == (betas, f"--adam-{stated.split()[0]}")
    assert row.note.startswith(f"{FINETUNE_FILE}:")
    assert row.note.endswith(f" --adam-{unknown} is not known: Megatron's default")


def test_an_interval_of_saving_that_a_command_makes_is_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--save-interval 10000", "--save-interval $(cat wanted)")
    (row,) = [row for row in made(run(), "sft").values if row.key == "train.save.every"]
    assert (row.value, row.note.partition(" ")[2]) == (500, "--save-interval is not known: qvl's default")
    change(FINETUNE_FILE, "--save-interval $(cat wanted)", "")
    (row,) = [row for row in made(run(), "sft").values if row.key == "train.save.every"]
    assert (row.value, row.note) == (500, "qvl's default")


def test_a_batch_that_is_not_the_product_of_its_parts_is_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--global-batch-size ${GBS}", "--global-batch-size 64")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if "make 192 samples, not 64" in row.what]
    assert len(row.places) == 2
    assert values(found, "sft")["train.global_batch"] == 64


def test_a_variable_that_is_not_what_its_option_says_is_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "--micro-batch-size ${MBS}", "--micro-batch-size 2")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if row.what.startswith("MBS is not")]
    assert [text for _, text in row.places] == ["MBS = 1", "--micro-batch-size = 2"]
    assert values(found, "sft")["train.micro_batch"] == 2


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


def test_context_parallelism_is_no_contradiction_of_the_batch(run: Run, change) -> None:
    change(FINETUNE_FILE, "CP=1", "CP=2")
    change(FINETUNE_FILE, "--bf16", "--bf16 --context-parallel-size $CP")
    found = run()
    assert not [row for row in found.ledger.contradictions if "replicas make" in row.what]
    (row,) = [row for row in made(found, "sft").values if row.key == "train.global_batch"]
    assert (row.value, row.note) == (96, "96 micro batches on 1 of 2 replicas there, fewer on each here")


def test_recomputation_names_every_place_and_what_it_had_besides(run: Run, edit) -> None:
    def more(model: dict[str, Any]) -> None:
        model["image_encoder"]["vision_encoder"]["recompute_granularity"] = "full"
        model["text_decoder"].update(
            recompute_granularity="selective", recompute_method="block", recompute_num_layers=4
        )

    edit("model_7b.json", more)
    found = run()
    (row,) = [row for row in made(found, "sft").values if row.key == "layout.recompute"]
    assert row.value == ["vision", "text"]
    assert "vision_encoder.recompute_granularity" in row.said
    assert "text_decoder.recompute_granularity" in row.note
    told = {left.said.rpartition(".")[2]: left.fate for left in found.ledger.left if "recompute" in left.said}
    assert told == dict.fromkeys(
        ("recompute_granularity", "recompute_method", "recompute_num_layers"), "no_counterpart"
    )


def test_warm_up_in_samples_is_a_part_of_the_training(run: Run, change) -> None:
    change(FINETUNE_FILE, "--train-iters 10000", "--train-samples 1920000")
    change(FINETUNE_FILE, "--lr-warmup-fraction 0.1", "--lr-warmup-samples 96000 --weight-decay-incr-style constant")
    found = run()
    rows = {row.key: row for row in made(found, "sft").values}
    assert (rows["train.steps"].value, rows["train.schedule.warmup"].value) == (10000, 0.05)
    assert rows["train.schedule.warmup"].said == "--lr-warmup-samples"
    assert not [left for left in found.ledger.left if left.fate == "unknown"]


def test_values_that_are_not_those_of_the_script_say_so(run: Run, change) -> None:
    change(FINETUNE_FILE, "--lr-decay-style cosine", "--lr-decay-style WSD")
    change(FINETUNE_FILE, "--bf16", "--fp16")
    rows = {row.key: row for row in made(run(), "sft").values}
    assert rows["train.schedule.name"].note == "WSD there, which qvl has not"
    assert "--fp16" in rows["model.dtype"].note
    assert not [row.key for row in rows.values() if not row.where and not row.note]


def test_without_the_data_file_the_script_is_read_all_the_same(run: Run, stack: Path) -> None:
    for name in ("data_7b.json", "model_7b.json"):
        (stack / name).unlink()
    found = run()
    rows = {row.key: row for row in made(found, "sft").values}
    assert (rows["data.sequence_length"].value, rows["data.workers"].value) == (1024, 8)
    assert rows["model.name"].note == "read off the files' names: 7b"
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []
    (loaded,) = [left for left in found.ledger.left if left.said == "--load" and left.where.startswith(FINETUNE_FILE)]
    assert loaded.fate == "no_counterpart"
