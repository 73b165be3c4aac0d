"""Every setting of every file stands somewhere in the report, once its file is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from generated_answers import generate_answers
from generated_folders import generate
from migrated_values import FINETUNE_FILE, Run
from qvl_core.migrate import report
from qvl_core.migrate.accounts import probably
from qvl_core.migrate.fates import DOCUMENTED
from qvl_core.migrate.json_source import read_json_source
from qvl_core.migrate.migration import Migration, migrate
from qvl_core.migrate.shell_script import read_script
from reference_stack_files import FINETUNE, MODEL


def places(found: Migration) -> set[tuple[str, str]]:
    """Give file:line and name of every setting that the JSON report has."""
    parsed: dict[str, Any] = json.loads(report.as_json(found, "out"))
    rows = [row for recipe in parsed["recipes"] for row in recipe["values"]]
    rows += [row for fate in ("no_effect", "no_counterpart", "unknown", "in_accord") for row in parsed[fate]]
    told = {(row["where"], row["setting"]) for row in rows}
    told |= {found for row in rows for found in re.findall(r"and (\S+:\d+) (\S+)", row.get("note", ""))}
    return told | {
        (place["where"], place["states"].partition(" = ")[0])
        for row in parsed["contradictions"]
        for place in row["places"]
    }


def stated(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield file:line and name of every value in the JSON files that states something."""
    for path in sorted(folder.glob("*.json")):
        source = read_json_source(path.read_text(encoding="utf-8"))
        for at, value in source.leaves():
            if value not in (None, "", [], {}):
                yield f"{path.name}:{source.lines[at]}", ".".join(at)


def test_every_setting_of_the_seven_files_stands_in_the_report(run: Run, stack: Path) -> None:
    found = run()
    assert set(stated(stack)) - places(found) == set()
    for path in stack.glob("*.sh"):
        script = read_script(path.read_text(encoding="utf-8"))
        told = {said for where, said in places(found) if where.startswith(path.name)}
        assert {f"--{name}" for name in script.options} - told == set()
        assert {name for name, variable in script.variables.items() if variable.exported} - told == set()


@pytest.mark.parametrize("seed", range(0, 40, 2))
@pytest.mark.parametrize("kind", ["training", "answers"])
def test_every_setting_of_random_folders_stands_in_the_report(tmp_path: Path, seed: int, kind: str) -> None:
    folder = tmp_path / "stack"
    if kind == "training":
        generate(folder, seed)
    else:
        generate_answers(folder, seed)
    found = migrate(folder, tmp_path / "out")
    assert set(stated(folder)) - places(found) == set()


def test_what_agrees_is_no_news_and_stands_last(run: Run) -> None:
    found = run()
    agrees = {left.said: left.why for left in found.ledger.left if left.fate == "in_accord"}
    assert agrees["--worker-num"] == "devices times machines, as in the recipe"
    assert agrees["text_decoder.num_query_groups"] == "as in the published model"
    assert agrees["text_decoder.model_id"] == "the model is known by its sizes"
    assert agrees["dataset_param.basic_parameters.dataset_dir"] == "data.sources.media_root"
    text = report.as_text(found, "out")
    assert text.index("Read, and in accord") > text.index("No counterpart")
    line = FINETUNE.splitlines().index('MM_DATA="./examples/mindspore/qwen2.5vl/data_7b.json"') + 1
    assert f"names the file that is read: --mm-data:{line}, " in text


def test_a_search_path_that_is_exported_is_told(run: Run, change) -> None:
    change(FINETUNE_FILE, "TP=1\n", "TP=1\nexport PYTHONPATH=/opt/MindSpeed\n")
    change(FINETUNE_FILE, "TP=1\n", "TP=1\nexport LD_LIBRARY_PATH=/opt/lib:$LD_LIBRARY_PATH\n")
    told = {left.said: left.fate for left in run().ledger.left if left.said.endswith("PATH")}
    assert told == dict.fromkeys(("PYTHONPATH", "LD_LIBRARY_PATH"), "no_counterpart")


def test_a_file_that_is_not_there_is_not_said_to_be_read(run: Run, stack: Path) -> None:
    (stack / "data_7b.json").unlink()
    found = run()
    assert not [left for left in found.ledger.left if left.said == "--mm-data"]
    assert any("--mm-data names data_7b.json, which is not in the folder" in text for _, text in found.ledger.remarks)


def test_what_is_nearly_a_known_name_is_told_with_it(run: Run, edit, change) -> None:
    def misspell(data: dict[str, Any]) -> None:
        basic = data["dataset_param"]["basic_parameters"]
        basic["max_sample"] = 10
        basic["streaming_"] = False
        basic["brand_new"] = 3

    edit("data_7b.json", misspell)
    edit("model_7b.json", lambda model: model["text_decoder"].update(pipeline_num_layer=[1, 27]))
    edit("evaluate_qwen2_5_vl_7b.json", lambda value: value["generation_config"].update(top__p=0.5))
    change(FINETUNE_FILE, "--seed 42", "--seeds 42 --lr-warmup-fractions 0.1")
    told = {left.said.rpartition(".")[2]: left.why for left in run().ledger.left if left.fate == "unknown"}
    assert {name: why.rpartition("; ")[2] for name, why in told.items() if "meant" in why} == {
        "max_sample": "max_samples was probably meant",
        "streaming_": "streaming was probably meant",
        "pipeline_num_layer": "pipeline_num_layers was probably meant",
        "top__p": "top_p was probably meant",
        "--seeds": "--seed was probably meant",
        "--lr-warmup-fractions": "--lr-warmup-fraction was probably meant",
    }
    assert "brand_new" in told


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from leaves(inner, (*path, key))


@pytest.mark.parametrize(("path", "value"), list(leaves(MODEL)), ids=lambda item: str(item)[:60])
def test_no_other_value_of_the_model_file_is_said_to_agree(run: Run, edit, path: tuple[str, ...], value: Any) -> None:
    other = not value if isinstance(value, bool) else 77 if isinstance(value, int | float) else [1, 2]

    def change(model: dict[str, Any]) -> None:
        for key in path[:-1]:
            model = model[key]
        model[path[-1]] = other if not isinstance(value, str) else "another"

    edit("model_7b.json", change)
    agrees = {
        left.said: left.why for left in run().ledger.left if left.fate == "in_accord" and "model_7b" in left.where
    }
    why = agrees.get(".".join(path), "")
    assert not why or why.startswith(("not compared", "the model is known by its sizes"))


def named_otherwise(stack: Path, change) -> None:
    """Let the training script name coco.json, which is the data file but for its HF folder."""
    data = json.loads((stack / "data_7b.json").read_text())
    (stack / "coco.json").write_text(json.dumps(data, indent=4))
    change("data_7b.json", "./ckpt/hf/Qwen2.5-VL-7B-Instruct", "./old/Qwen2.5-VL-7B-Instruct")
    change(FINETUNE_FILE, "qwen2.5vl/data_7b.json", "qwen2.5vl/coco.json")


def test_a_data_file_that_no_script_uses_is_one_remark(run: Run, stack: Path, change) -> None:
    named_otherwise(stack, change)
    found = run()
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []
    assert not [where for where, _ in places(found) if where.startswith("data_7b.json")]
    assert ("data_7b.json", "no script uses it") in found.ledger.remarks
    assert not [row for row in found.ledger.contradictions if "HF folders" in row.what]


def test_an_inference_file_is_compared_with_the_data_file_of_a_recipe(run: Run, stack: Path, change) -> None:
    named_otherwise(stack, change)
    change("coco.json", "./ckpt/hf/Qwen2.5-VL-7B-Instruct", "./new/Qwen2.5-VL-7B-Instruct")
    told = [row.places for row in run().ledger.contradictions if "HF folders" in row.what]
    assert told
    assert all(where.startswith("coco.json:") for (where, _), _ in told)


def test_the_data_file_of_a_variant_of_the_size_is_compared(run: Run, stack: Path, edit) -> None:
    (stack / FINETUNE_FILE).rename(stack / "finetune_qwen2_5_vl_7b_lora.sh")
    edit("inference_qwen2_5_vl_7b.json", lambda value: value["tokenizer"].update(from_pretrained="./other/7B"))
    (row,) = [row for row in run().ledger.contradictions if "HF folders" in row.what]
    assert [where.partition(":")[0] for where, _ in row.places] == ["data_7b.json", "inference_qwen2_5_vl_7b.json"]


def test_a_data_file_without_training_script_is_left_alone(run: Run, stack: Path) -> None:
    (stack / FINETUNE_FILE).unlink()
    found = run()
    assert [left.said for left in found.ledger.left if left.fate == "unknown"] == []
    (told,) = [text for where, text in found.ledger.remarks if where == "data_7b.json"]
    assert told.startswith("no finetune_*.sh for 7b")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_name_is_no_misspelling_of_another(name: str) -> None:
    assert probably(f"basic_parameters.{name}", DOCUMENTED) == ""
