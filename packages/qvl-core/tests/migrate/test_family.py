"""Files of other models are refused, whatever their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from migrated_values import FINETUNE_FILE, Run, made
from qvl_core.migrate.migration import migrate

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
