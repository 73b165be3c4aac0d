"""`qvl score` and `qvl eval compare` as a person calls them, without any framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qvl_core.cli.app import main

# Refuses the frameworks and what takes long to import, and says which of them were loaded after all.
BLOCKED = """
import sys
HEAVY = ("mindspore", "torch", "transformers", "pandas", "PIL", "av", *sys.argv.pop(1).split())
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(f"{name} is blocked in this test")
        return None
sys.meta_path.insert(0, Blocker())
from qvl_core.cli.app import main
code = main(sys.argv[1:])
assert not [name for name in sys.modules if name.split(".")[0] in HEAVY]
sys.exit(code)
"""
OPTIONS = {"A": "red fox", "B": "green frog", "C": "blue whale", "D": "grey wolf"}


def answers(path: Path, predictions: list[str], **changes: Any) -> Path:
    rows = [
        {
            **{"index": f"validation_{i}", "split": "validation", "category": "Science", "subcategory": "Math"},
            **{"question": "q", "options": OPTIONS, "answer": "B", "prediction": text, "images": [f"p{i}"], **changes},
        }
        for i, text in enumerate(predictions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def blocked(folder: Path, without: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, without, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_scores_and_writes_files_where_no_framework_can_be_imported(tmp_path: Path) -> None:
    answers(tmp_path / "a.jsonl", ["B", "A frog, and so B it is for all of us", "?"])
    words = ["--benchmark", "mmmu_dev_val", "--rules", "mindspeed", "--rules", "mmmu-official", "--out", "out"]
    done = blocked(tmp_path, "numpy", "score", "a.jsonl", *words)
    assert done.returncode == 0, done.stderr
    assert "a on mmmu_dev_val: 3 answers" in done.stdout
    assert "1 of 3 rows differ between the rule sets, 1 in score" in done.stdout
    assert "validation_1" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a_mmmu_dev_val.xlsx", "a_mmmu_dev_val_acc.csv", "a_mmmu_dev_val_scores.json"]


def test_compares_where_no_framework_can_be_imported(tmp_path: Path) -> None:
    answers(tmp_path / "a.jsonl", ["B", "A", "?"])
    answers(tmp_path / "b.jsonl", ["B", "B", "?"])
    done = blocked(tmp_path, "", "eval", "compare", "a.jsonl", "b.jsonl", "--benchmark", "ai2d_test")
    assert done.returncode == 0, done.stderr
    assert "A 33.33 %, B 66.67 %: B - A = +33.33 points" in done.stdout
    assert "B won 1 rows and lost 0; exact McNemar test over rows: p = 1" in done.stdout


def test_writes_the_workbook_again_from_the_workbook(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answers(tmp_path / "a.jsonl", ["B", "(B)", "=B"])
    assert main(["score", str(tmp_path / "a.jsonl"), "--benchmark", "ai2d_test", "--out", str(tmp_path / "1")]) == 0
    first = tmp_path / "1" / "a_ai2d_test.xlsx"
    assert main(["score", str(first), "--benchmark", "AI2D_TEST", "--out", str(tmp_path / "2")]) == 0
    assert (tmp_path / "2" / "a_ai2d_test.xlsx").read_bytes() == first.read_bytes()
    assert (tmp_path / "2" / "a_ai2d_test_acc.csv").read_bytes() == (
        tmp_path / "1" / "a_ai2d_test_acc.csv"
    ).read_bytes()
    assert "1 replies start with =" in capfd.readouterr().out


def test_the_answers_themselves_are_never_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answers(tmp_path / "a.jsonl", ["B"])
    words = ["--benchmark", "ai2d_test", "--out", str(tmp_path)]
    assert main(["score", str(tmp_path / "a.jsonl"), *words]) == 0
    path = tmp_path / "a_ai2d_test.xlsx"
    before = path.read_bytes()
    assert main(["score", str(path), *words]) == 2
    assert "is where the answers come from, and would be replaced" in capfd.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("benchmark", ["digits_test", "held_out"])
def test_answers_without_options_or_splits_are_scored_by_equality(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], benchmark: str
) -> None:
    rows = [{"index": str(i), "answer": "7", "prediction": text} for i, text in enumerate((" 7", "8", ""))]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(tmp_path / "p.jsonl"), "--benchmark", benchmark]) == 0
    shown = capfd.readouterr().out
    assert "exact" in shown
    assert "33.33" in shown


def test_json_has_every_row_that_differs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = answers(tmp_path / "a.jsonl", ["A"] * 50, options={}, answer="10")
    assert main(["score", str(path), "--benchmark", "mmmu_dev_val", "--format", "json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert [result["rules"] for result in content["results"]] == [
        *("vlmevalkit-2026-06+mmmu-official", "vlmevalkit-2026-06", "mmmu-official"),
    ]
    assert (content["rows"], content["rows_that_differ"], content["rows_with_other_scores"]) == (50, 50, 50)
    assert content["differences"][0]["by_rules"]["vlmevalkit-2026-06"] == {
        **{"extracted": "A", "score": 1.0, "rule": "letter token", "failed": False},
    }
    assert content["results"][0]["headline"]["name"] == "validation"


def test_a_documents_blanks_count_only_as_upstream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = answers(tmp_path / "a.jsonl", ["xyz" + " " * 20], answer="abc")
    words = ["score", str(path), "--benchmark", "docvqa_val", "--format", "json"]
    assert main(words) == 0
    assert json.loads(capfd.readouterr().out)["results"][0]["headline"]["percent"] == 0
    assert main([*words, "--as-upstream"]) == 0
    assert json.loads(capfd.readouterr().out)["results"][0]["headline"]["percent"] == pytest.approx(2000 / 23)


def test_text_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = answers(tmp_path / "a.jsonl", ["[red]B[/red]", "\x1b[31mB"], subcategory="[bold]x")
    rules = ["--rules", "mindspeed", "--rules", "mmmu-official"]
    assert main(["score", str(path), "--benchmark", "mmmu_dev_val", *rules]) == 0
    shown = capfd.readouterr().out
    assert "[red]B[/red]" in shown
    assert "[bold]x" in shown
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "ai2d"], "there is no benchmark 'ai2d'; there is: ai2d_test"),
        (["--benchmark", "ai2d_test", "--rules", "vlmevalkit"], "'vlmevalkit' does not score ai2d_test"),
        (["--benchmark", "chartqa_test", "--rules", "mmmu-official"], "'mmmu-official' does not score chartqa_test"),
        ([], "does not say which benchmark it answers"),
        (["--benchmark", "ai2d_test", "--data", "none.tsv"], "there is no such file"),
    ],
)
def test_wrong_words_end_with_2_and_a_fix(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    path = answers(tmp_path / "a.jsonl", ["B"])
    assert main(["score", str(path), *words]) == 2
    shown = capfd.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
