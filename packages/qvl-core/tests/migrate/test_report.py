"""The report as text and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from migrated_values import FINETUNE_FILE, Run
from qvl_core.migrate import report
from qvl_core.migrate.ledger import kept_back
from reference_stack_files import FINETUNE


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


def test_many_other_files_are_named_in_short_and_all_in_json(run: Run, stack: Path) -> None:
    for number in range(300):
        (stack / f"{number:03}.jpg").touch()
    found = run()
    assert "039.jpg and 260 more\n\nLook first at" in report.as_text(found, "out")
    assert len(json.loads(report.as_json(found, "out"))["not_looked_at"]) == 300


def test_what_is_not_known_prints_as_words(run: Run, change) -> None:
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=localhost\nMASTER_ADDR=$(hostname -i)")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if row.what.startswith("MASTER_ADDR")]
    assert row.places[1][1] == "MASTER_ADDR = <not known>"
    assert "\ue000" not in report.as_text(found, "out") + report.as_json(found, "out")


def test_what_has_to_be_looked_at_stands_first(run: Run, stack: Path, edit, change) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(brand_new=3))
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=$(hostname)")
    change("inference_qwen2_5_vl_7b.sh", "TP=1", "TP=3")
    (stack / "model_3b.json").write_text("{")
    text = report.as_text(run(), "out")
    titles = (
        *("Files that cannot be read", "7b_infer.toml: not written", "Contradictions", "Not known to", "Remarks"),
        *("7b_sft.toml: values", "Never had an effect", "No counterpart", "Read, and in accord", "Look first at"),
    )
    at = [text.index(f"\n{title}") for title in titles]
    assert at == sorted(at)
    assert text[at[4] :].splitlines()[3].startswith(f"{FINETUNE_FILE}:")
    assert "--master-addr is not known" in text[at[4] :].splitlines()[3]
    assert text.rstrip().endswith("Next: qvl data check out/7b_sft.toml")


def test_a_reason_that_several_settings_share_is_written_once(run: Run) -> None:
    text = report.as_text(run(), "out")
    assert text.count("read by the PyTorch adapter only:") == 1
    assert text.count("the model's structure is that of the model file") == 1
    line = FINETUNE.splitlines().index("export TASK_QUEUE_ENABLE=2") + 1
    assert f"\n  {FINETUNE_FILE}:{line}: TASK_QUEUE_ENABLE = 2\n" in text


def test_the_values_stand_table_by_table(run: Run) -> None:
    for one in run().made:
        tables = [row.key.rpartition(".")[0] for row in one.values]
        assert len([table for at, table in enumerate(tables) if table not in tables[:at]]) == len(
            [table for at, table in enumerate(tables) if at == 0 or tables[at - 1] != table]
        )


def test_the_next_command_is_one_for_the_recipe_that_is_there(run: Run, stack: Path) -> None:
    for name in ("data_7b.json", "model_7b.json", FINETUNE_FILE):
        (stack / name).unlink()
    assert report.as_text(run(), "out").rstrip().endswith("Next: qvl check out/7b_infer.toml")


def test_secrets_of_a_script_are_in_no_report(run: Run, change) -> None:
    secrets = "export HF_TOKEN=abc1\nexport WANDB_API_KEY=abc2\nWANDB_API_KEY=abc3\nPASSWORD=abc4\nexport PASSWORD"
    change(FINETUNE_FILE, "NPUS_PER_NODE=8", f"{secrets}\nNPUS_PER_NODE=8")
    change(FINETUNE_FILE, "--bf16", "--wandb-api-key abc5 --hf-token=abc6 --tokens-kept 7 --bf16")
    found = run()
    texts = (report.as_text(found, "out"), report.as_json(found, "out"), *(one.text for one in found.made))
    assert not [text for text in texts if re.search("abc[0-9]", text)]
    assert "HF_TOKEN = (not shown)" in texts[0]
    assert "--tokens-kept" in texts[0]
    assert "TOKENIZERS_PARALLELISM = false" in texts[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("msrun $DIST", "nohup env HF_TOKEN=abc1 numactl -N0 msrun $DIST"),
        ("NPUS_PER_NODE=8", "HF_TOKEN = abc5\nexport HF_TOKEN = abc6\nNPUS_PER_NODE=8"),
        ("NPUS_PER_NODE=8", 'HF_TOKEN=abc1234567\nexport MS_EXTRA="x $HF_TOKEN"\nNPUS_PER_NODE=8'),
        ("--bf16", "--extra-config token=abc9 --hub-token abc1234567 --other of-abc1234567 --bf16"),
        ('SAVE_PATH="save_dir"', 'HF_TOKEN=abc1234567\nSAVE_PATH="save_dir/$HF_TOKEN"'),
        ("--lr 1.0e-5", "--lr abc1234567 --hub-token abc1234567"),
        ('SAVE_PATH="save_dir"', 'HF_TOKEN=\'abc"1234567\'\nSAVE_PATH="save_dir/$HF_TOKEN"'),
    ],
)
def test_secrets_inside_of_other_texts_are_in_no_report(run: Run, change, old: str, new: str) -> None:
    change(FINETUNE_FILE, old, new)
    found = run()
    texts = (report.as_text(found, "out"), report.as_json(found, "out"))
    assert not [found[0] for text in texts for found in re.finditer(r'.{0,60}abc\\?"?[0-9].*', text)]


def test_secrets_of_a_loop_are_in_no_report(run: Run, change) -> None:
    change(FINETUNE_FILE, "msrun $DIST", "for HF_TOKEN in abc1 abc2; do msrun $DIST")
    change(FINETUNE_FILE, "--distributed-backend nccl", "--distributed-backend nccl\ndone")
    texts = (report.as_text(found := run(), "out"), report.as_json(found, "out"))
    assert not [text for text in texts if re.search("abc[0-9]", text)]


@pytest.mark.parametrize("name", ["calculate-per-token-loss", "pad-token-id", "max-token-count", "TOKENIZER_NAME"])
def test_names_that_only_speak_of_tokens_are_shown(name: str) -> None:
    assert kept_back(name, "true") == "true"


def test_a_short_number_is_no_secret() -> None:
    assert kept_back("max-new-token", "7") == "7"
    assert kept_back("max-new-token", "12345678") == "(not shown)"


@pytest.mark.parametrize("name", ["HF_TOKEN", "hf-token", "HUGGINGFACEHUB_API_TOKEN", "TOKEN", "HF_TOKEN_READ"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert kept_back(name, "hf_1") == "(not shown)"
    assert kept_back(name, "") == ""
