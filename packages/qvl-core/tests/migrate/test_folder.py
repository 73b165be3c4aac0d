"""Which files of a folder are read, and what is told of those that cannot be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from migrated_values import FINETUNE_FILE, Run, made, values
from qvl_core.errors import RecipeError
from qvl_core.migrate.migration import migrate
from reference_stack_files import FINETUNE


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


def test_two_files_of_one_size_are_kept_apart(run: Run, stack: Path) -> None:
    for name in ("data_7b.json", FINETUNE_FILE):
        text = (stack / name).read_text()
        (stack / name.replace("qwen2_5_vl_7b", "7b").replace("data_7b", "data_qwen2_5_vl_7b")).write_text(text)
    found = run()
    assert sorted(one.name for one in found.made if one.task == "sft") == ["7b_sft", "qwen2_5_vl_7b_sft"]
    assert not any(one.problems for one in found.made)
    assert ("data_qwen2_5_vl_7b.json", "no script uses it") in found.ledger.remarks


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "", "data_7b.json"])
def test_folders_that_cannot_be_are_refused(run: Run, stack: Path, path: str) -> None:
    with pytest.raises(RecipeError):
        migrate(stack / path if path == "data_7b.json" else Path(path or "nowhere"), Path("out"))


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


def test_variants_of_a_size_share_its_files(run: Run, stack: Path) -> None:
    (stack / "finetune_qwen2_5_vl_7b_lora.sh").write_text(FINETUNE.replace("--bf16", "--lora-r 8 --bf16"))
    assert {one.name for one in run().made} >= {"7b_sft", "7b_lora_sft"}


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


def test_broken_json_stops_its_recipe_and_no_other(run: Run, stack: Path, change) -> None:
    change("data_7b.json", '"drop_last": true,', '"drop_last": true')
    found = run()
    assert found.broken[0].where.startswith("data_7b.json:")
    assert not found.complete
    assert {one.task for one in found.made if not one.problems} == {"infer", "eval"}
    assert "data_7b.json cannot be read" in made(found, "sft").problems[0].message


def test_all_comments_of_a_file_are_told_with_their_lines(run: Run, stack: Path, change) -> None:
    change("data_7b.json", "{\n", "{ // mine\n")
    change("data_7b.json", '"dataset_type": "huggingface",', '"dataset_type": "huggingface", # theirs')
    (problem,) = run().broken
    assert problem.where == "data_7b.json:1"
    assert "line 3: a comment" in problem.message


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_a_number_is_told_with_its_line(run: Run, change, written: str) -> None:
    change("data_7b.json", '"video_fps": 2.0', f'"video_fps": {written}')
    (problem,) = run().broken
    assert problem.where.startswith("data_7b.json:")
    assert problem.message == f"{written} stands where a value is expected"
    assert problem.fix == "write the number, or null"


def test_dos_line_ends_change_nothing(run: Run, stack: Path) -> None:
    before = values(run(), "sft")
    path = stack / FINETUNE_FILE
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert values(run(), "sft") == before


def test_a_script_with_comments_in_gbk_is_read_and_told(run: Run, stack: Path) -> None:
    path = stack / FINETUNE_FILE
    (stack / "common.sh").write_bytes("# 公共变量\nSEQ_LEN=2048\n".encode("gbk"))
    text = path.read_text().replace("TP=1\n", "TP=1 # 张量并行\n").replace("SEQ_LEN=1024", "source ./common.sh")
    path.write_bytes(text.encode("gbk"))
    found = run()
    assert values(found, "sft")["data.sequence_length"] == 2048
    (told,) = [text for where, text in found.ledger.remarks if where == FINETUNE_FILE]
    assert "read as GB18030" in told


@pytest.mark.parametrize(
    ("encoding", "message"), [("utf-16", "is UTF-16 text"), ("gbk", "is not UTF-8 text, perhaps GBK")]
)
def test_files_in_other_encodings_are_told_with_the_command_that_mends_them(
    run: Run, stack: Path, encoding: str, message: str
) -> None:
    path = stack / "data_7b.json"
    path.write_bytes(path.read_text().replace("./data/cache_dir", "./数据").encode(encoding))
    (problem,) = run().broken
    assert problem.message.startswith(message)
    assert problem.fix.startswith("iconv -f ")
    assert "-t UTF-8 data_7b.json" in problem.fix


def test_a_script_in_utf_16_is_told_as_such(run: Run, stack: Path) -> None:
    path = stack / FINETUNE_FILE
    path.write_bytes(path.read_text().encode("utf-16"))
    (problem,) = run().broken
    assert problem.where == FINETUNE_FILE
    assert "UTF-16" in problem.message


def test_comments_beside_another_fault_have_a_fix(run: Run, change) -> None:
    change("data_7b.json", "{\n", "{ // mine\n")
    change("data_7b.json", '"drop_last": true,', '"drop_last": true,,')
    (problem,) = run().broken
    assert "a comment stands there" in problem.message
    assert "take them out" in problem.fix


def test_files_that_the_script_names_are_read_whatever_they_are_called(run: Run, stack: Path, change) -> None:
    (stack / "data_7b.json").rename(stack / "coco.json")
    (stack / "model_7b.json").rename(stack / "arch.json")
    (stack / "inference_qwen2_5_vl_7b.json").rename(stack / "ask.json")
    change(FINETUNE_FILE, "/data_7b.json", "/coco.json")
    change(FINETUNE_FILE, '"./examples/mindspore/qwen2.5vl/model_7b.json"', '"$HERE/arch.json"')
    change("inference_qwen2_5_vl_7b.sh", "/inference_qwen2_5_vl_7b.json", "/ask.json")
    found = run()
    assert (found.complete, found.unread) == (True, ())
    rows = {row.key: row for one in found.made for row in one.values if one.task in ("sft", "infer")}
    assert rows["data.sources"].where.startswith("coco.json:")
    assert rows["model.freeze"].where.startswith("arch.json:")
    assert rows["infer.prompt"].where.startswith("ask.json:")
    assert not any("MM_MODEL" in text or "--mm-model" in text for _, text in found.ledger.remarks)


def test_a_script_of_another_name_that_starts_training_is_told(run: Run, stack: Path) -> None:
    (stack / FINETUNE_FILE).rename(stack / "train_7b.sh")
    (stack / "download.sh").write_text("wget https://example.org/x\n")
    found = run()
    assert set(found.unread) == {"train_7b.sh", "download.sh"}
    (told,) = [text for where, text in found.ledger.remarks if where == "train_7b.sh"]
    assert "is not read: only finetune_*.sh" in told
    assert not [where for where, _ in found.ledger.remarks if where == "download.sh"]
