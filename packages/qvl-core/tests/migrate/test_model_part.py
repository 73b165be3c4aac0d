"""Model, stages, devices, machines and environment: what the files say, and where they contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from migrated_values import FINETUNE_FILE, Run, made, values
from reference_stack_files import FINETUNE


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


def test_another_model_in_one_file_is_a_contradiction(run: Run, edit) -> None:
    def other(data: dict[str, Any]) -> None:
        data["dataset_param"]["preprocess_parameters"]["model_name_or_path"] = "./ckpt/Qwen2.5-VL-72B-Instruct"

    edit("data_7b.json", other)
    (row,) = [row for row in run().ledger.contradictions if "different models" in row.what]
    assert {where.partition(":")[0] for where, _ in row.places} == {"model_7b.json", "data_7b.json"}


def test_variables_out_of_range_are_left_out_and_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "HCCL_CONNECT_TIMEOUT=1200", "HCCL_CONNECT_TIMEOUT=30")
    found = run()
    assert "env.HCCL_CONNECT_TIMEOUT" not in values(found, "sft")
    assert any("outside its range" in text for _, text in found.ledger.remarks)


def test_too_few_devices_are_told_with_the_machines_that_are_needed(run: Run, change) -> None:
    change(FINETUNE_FILE, "TP=1", "TP=4")
    (problem, *_) = made(run(), "sft").problems
    assert problem.where == f"{FINETUNE_FILE}:{FINETUNE.splitlines().index('NPUS_PER_NODE=8') + 1}"
    assert "makes 8 devices in all; tp 4 x pp 4 needs 16" in problem.message
    assert problem.fix.startswith("NNODES=2")


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


def test_variables_that_the_program_never_saw(run: Run, change) -> None:
    change(FINETUNE_FILE, "export HCCL_CONNECT_TIMEOUT=1200", "HCCL_CONNECT_TIMEOUT=1200\nexport HCCL_EXEC_TIMOUT=1")
    found = run()
    assert "env.HCCL_CONNECT_TIMEOUT" not in values(found, "sft")
    why = {row.said: row.why for row in found.ledger.left if row.fate == "no_effect"}
    assert "was not exported" in why["HCCL_CONNECT_TIMEOUT"]
    assert "HCCL_EXEC_TIMEOUT was probably meant" in why["HCCL_EXEC_TIMOUT"]


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


@pytest.mark.parametrize(
    "command", ["msrun evaluate_vlm.py", "torchrun evaluate_vlm.py a.json", "python evaluate_vlm.py $(cat a)"]
)
@pytest.mark.parametrize("before", ["", 'MM_ARGS="--bf16"\n'])
def test_a_command_without_options_is_not_said_to_be_missing(run: Run, stack: Path, command: str, before: str) -> None:
    (stack / "evaluate_qwen2_5_vl_7b.sh").write_text(f"{before}{command}\n")
    told = [text for where, text in run().ledger.remarks if where.startswith("evaluate_") and "program" in text]
    (only,) = told
    assert only.startswith("no options of a command that starts the program were found")


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


def test_a_host_file_beside_the_script_gives_machines_and_master(run: Run, stack: Path, change) -> None:
    (stack / "hosts").write_text("10.1.0.7\n10.1.0.8\n")
    change(FINETUNE_FILE, "NNODES=1", "H=./hosts\nNNODES=$(cat $H | wc -l)")
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=$(head -n1 ./hosts | awk '{print $1;}')")
    found = run()
    row = values(found, "sft")
    assert (row["launch.nodes"], row["launch.master"], row["layout.dp"]) == (2, "10.1.0.7:29501", 4)
    assert any("which lies beside the script" in text for _, text in found.ledger.remarks)


@pytest.mark.parametrize("stated", ["false", 0, 1])
def test_a_freeze_that_is_no_switch_is_a_problem_with_its_line(run: Run, edit, stated: object) -> None:
    edit("model_7b.json", lambda model: model["image_encoder"]["vision_encoder"].update(freeze=stated))
    (problem,) = made(run(), "sft").problems
    assert problem.where.startswith("model_7b.json:")
    assert problem.key.endswith("vision_encoder.freeze")
    assert "true or false" in problem.message


def test_what_a_command_makes_is_told_once(run: Run, change) -> None:
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=$(scontrol show hostnames | head -n 1)")
    change(FINETUNE_FILE, "NODE_RANK=0", "NODE_RANK=$SLURM_NODEID")
    found = run()
    told = [text for where, text in found.ledger.remarks if where.startswith(FINETUNE_FILE) and "known" in text]
    (only,) = told
    assert only.startswith("--master-addr is not known: launch.master = localhost:29501 is taken")
    assert not any("is made by a command" in text for _, text in found.ledger.remarks)
    (rank,) = [left for left in found.ledger.left if left.said == "--node-rank"]
    assert "qvl run RECIPE --node-rank N" in rank.why


def test_one_machine_with_too_few_devices_gets_more_of_them(run: Run, change) -> None:
    change(FINETUNE_FILE, "NPUS_PER_NODE=8", "NPUS_PER_NODE=2")
    (problem, *_) = made(run(), "sft").problems
    assert problem.fix == "NPUS_PER_NODE=4, or a smaller layout"


def test_a_frozen_text_part_never_had_an_effect(run: Run, edit) -> None:
    edit("model_7b.json", lambda model: model["text_decoder"].update(freeze=True))
    found = run()
    assert values(found, "sft")["model.freeze"] == ["vision", "merger"]
    (left,) = [left for left in found.ledger.left if left.said == "text_decoder.freeze"]
    assert (left.fate, left.where.partition(":")[0]) == ("no_effect", "model_7b.json")
