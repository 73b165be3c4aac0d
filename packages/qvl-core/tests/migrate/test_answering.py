"""Inference and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from migrated_values import FINETUNE_FILE, Run, made, values


def test_one_converted_folder_loaded_with_two_cuts_is_a_contradiction(run: Run) -> None:
    rows = [row for row in run().ledger.contradictions if "two cuts" in row.what]
    assert {where.partition(":")[0] for row in rows for where, _ in row.places} == {
        FINETUNE_FILE,
        "inference_qwen2_5_vl_7b.sh",
        "evaluate_qwen2_5_vl_7b.sh",
    }


def test_a_benchmark_and_the_file_of_another_contradict_each_other(run: Run, edit) -> None:
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value.update(dataset_path="./ChartQA_TEST.tsv"))
    assert any("that of chartqa_test" in row.what for row in run().ledger.contradictions)


def test_two_hf_folders_for_one_model_are_told(run: Run, edit) -> None:
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value["tokenizer"].update(from_pretrained="./other/Qwen-7B"))
    (row,) = [row for row in run().ledger.contradictions if "two HF folders" in row.what]
    assert {where.partition(":")[0] for where, _ in row.places} == {"data_7b.json", "evaluate_qwen2_5_vl_7b.json"}


def test_evaluation_is_scored_by_both_rules_and_asked_as_it_was(run: Run, edit) -> None:
    row = values(run(), "eval")
    assert (row["eval.rules"], row["eval.prompts"]) == (["vlmevalkit-2025-09", "mindspeed"], "custom")
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value.update(use_custom_prompt=False))
    assert values(run(), "eval")["eval.prompts"] == "default"


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
    names = ("min_length", "typical_p", "early_stopping", "num_assistant_tokens", "num_beams")
    assert {told[name] for name in names} == {"in_accord"}


def test_a_benchmark_that_is_not_known_is_told_with_its_line(run: Run, edit) -> None:
    edit("evaluate_qwen2_5_vl_7b.json", lambda d: d.update(evaluation_dataset="mmbench", dataset_path=""))
    problems = made(run(), "eval").problems
    assert [problem.key for problem in problems] == ["eval.benchmark", "eval.data"]
    assert all(problem.where.startswith("evaluate_qwen2_5_vl_7b.json:") for problem in problems)


def test_inference_and_evaluation_are_compared_where_there_is_no_training(run: Run, stack: Path, change, edit) -> None:
    for name in ("data_7b.json", "model_7b.json", FINETUNE_FILE):
        (stack / name).unlink()
    change("evaluate_qwen2_5_vl_7b.sh", "TP=1", "TP=2")
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value["tokenizer"].update(from_pretrained="./other/7B"))
    told = {row.what: {where.partition(":")[0] for where, _ in row.places} for row in run().ledger.contradictions}
    (cuts,) = [files for what, files in told.items() if "two cuts" in what]
    assert cuts == {"inference_qwen2_5_vl_7b.sh", "evaluate_qwen2_5_vl_7b.sh"}
    assert told["two HF folders for one model"] == {"inference_qwen2_5_vl_7b.json", "evaluate_qwen2_5_vl_7b.json"}


def test_a_video_with_the_image_token_is_a_contradiction(run: Run, edit) -> None:
    def video(value: dict[str, Any]) -> None:
        value["video_path"], value["use_infer_fa"] = value.pop("image_path"), True

    edit("inference_qwen2_5_vl_7b.json", video)
    found = run()
    (row,) = [row for row in found.ledger.contradictions if "img_context_token_id" in row.what]
    assert [text.partition(" = ")[0] for _, text in row.places] == ["video_path", "img_context_token_id"]
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []
    edit("inference_qwen2_5_vl_7b.json", lambda value: value.update(img_context_token_id=151656))
    assert not any("img_context_token_id" in row.what for row in run().ledger.contradictions)


def test_values_that_no_file_states_say_what_they_are(run: Run, stack: Path) -> None:
    (stack / "inference_qwen2_5_vl_7b.sh").unlink()
    found = run()
    for task in ("infer", "eval"):
        assert not [row.key for row in made(found, task).values if not row.where and not row.note]
    told = [text for where, text in found.ledger.remarks if where == "inference_qwen2_5_vl_7b.json"]
    assert "no device count is stated: launch.devices_per_node = 4 is taken" in told


def test_benchmarks_of_one_size_share_its_script(run: Run, stack: Path, edit, change) -> None:
    name = "evaluate_qwen2_5_vl_7b"
    value = json.loads((stack / f"{name}.json").read_text())
    for benchmark, file in (("chartqa_test", "ChartQA_TEST.tsv"), ("docvqa_val", "DocVQA_VAL.tsv")):
        more = {"evaluation_dataset": benchmark, "dataset_path": f"./data/{file}"}
        (stack / f"{name}_{benchmark}.json").write_text(json.dumps(value | more))
    found = run()
    recipes = {one.name: {row.key: row.value for row in one.values} for one in found.made if one.task == "eval"}
    assert set(recipes) == {"7b_eval", "7b_chartqa_test_eval", "7b_docvqa_val_eval"}
    assert {row["layout.dp"] for row in recipes.values()} == {8}
    assert recipes["7b_docvqa_val_eval"]["eval.benchmark"] == "docvqa_val"
    assert recipes["7b_docvqa_val_eval"]["env.HCCL_CONNECT_TIMEOUT"] == 7200
    told = {where for where, text in found.ledger.remarks if "are those of evaluate_qwen2_5_vl_7b.sh" in text}
    assert told == {f"{name}_chartqa_test.json", f"{name}_docvqa_val.json"}


def test_a_file_that_the_script_of_another_name_names_gives_one_recipe(run: Run, stack: Path, change) -> None:
    name = "evaluate_qwen2_5_vl_7b"
    (stack / f"{name}.json").rename(stack / f"{name}_ai2d.json")
    change(f"{name}.sh", f"{name}.json", f"{name}_ai2d.json")
    assert [one.name for one in run().made if one.task == "eval"] == ["7b_eval"]


def test_another_sizes_script_is_not_shared(run: Run, stack: Path) -> None:
    (stack / "evaluate_qwen2_5_vl_7b.sh").rename(stack / "evaluate_qwen2_5_vl_72b.sh")
    (stack / "inference_qwen2_5_vl_7b.sh").rename(stack / "inference_all.sh")
    (stack / "inference_qwen2_5_vl_7b.json").rename(stack / "inference_7b_cat.json")
    found = run()
    told = {where: text for where, text in found.ledger.remarks if text.startswith("no ")}
    assert "are those of inference_all.sh" in told["inference_7b_cat.json"]
    assert "evaluate_qwen2_5_vl_7b.json" not in told
    assert {one.name for one in found.made if one.task == "eval"} == {"72b_eval"}
