"""A folder as the reference stack's users have it, written from the documented fields; and ways to change it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qvl_core.migrate.migration import Migration, migrate

sys.path.insert(0, str(Path(__file__).parent))

from reference_stack_files import (
    ANSWER_SCRIPT,
    DATA,
    EVALUATE,
    FINETUNE,
    INFERENCE,
    MODEL,
)

Change = Callable[[str, str, str], None]
Edit = Callable[[str, Callable[[dict[str, Any]], Any]], None]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the seven files of 7B, and work beside them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "qwen2.5vl"
    folder.mkdir()
    for name, content in (
        ("data_7b.json", DATA),
        ("model_7b.json", MODEL),
        ("inference_qwen2_5_vl_7b.json", INFERENCE),
        ("evaluate_qwen2_5_vl_7b.json", EVALUATE),
    ):
        (folder / name).write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
    (folder / "finetune_qwen2_5_vl_7b.sh").write_text(FINETUNE, encoding="utf-8")
    for name, values in (
        ("inference", {"timeout": 1200, "devices": 1, "program": "inference_vlm.py"}),
        ("evaluate", {"timeout": 7200, "devices": 8, "program": "evaluate_vlm.py"}),
    ):
        text = ANSWER_SCRIPT.format(model=f"{name}_qwen2_5_vl_7b.json", **values)
        (folder / f"{name}_qwen2_5_vl_7b.sh").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def change(stack: Path) -> Change:
    """Replace a text in one of the files, once; it has to be there."""

    def replace(name: str, old: str, new: str) -> None:
        path = stack / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


@pytest.fixture
def edit(stack: Path) -> Edit:
    """Change the object of one of the JSON files."""

    def apply(name: str, action: Callable[[dict[str, Any]], Any]) -> None:
        path = stack / name
        value = json.loads(path.read_text(encoding="utf-8"))
        action(value)
        path.write_text(json.dumps(value, indent=4), encoding="utf-8")

    return apply


@pytest.fixture
def run(stack: Path) -> Callable[[], Migration]:
    """Migrate the folder, without writing."""
    return lambda: migrate(stack, Path("migrated"))
