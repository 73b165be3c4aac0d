"""Folders of runs made by hand: a whole recipe, numbers as a training writes them, and nothing computed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qvl_core import load_recipe
from qvl_core.run_folder import RECORDED_PACKAGES

HOSTILE = "</script><img src=x onerror=alert(1)>\"'\x1b[31m\u202e"


@cache
def _recipe() -> dict[str, Any]:
    root = Path(__file__).parents[3]
    text = (root / "recipes" / "tiny_sft.toml").read_text(encoding="utf-8")
    # Wherever the tests are run from.
    path = root / "recipes" / "tiny_sft.toml"
    checkpoint = root / "recipes" / "tiny" / "checkpoint"
    assert "recipes/tiny/checkpoint" in text
    found = load_recipe(path, [f'weights.source="{checkpoint}"']).resolved()
    found.pop("expected", None)
    return found


def recipe(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give a resolved recipe with other values at these dotted keys."""
    found = copy.deepcopy(_recipe())
    for key, value in (changes or {}).items():
        *tables, last = key.split(".")
        table = found
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    return found


def record(changes: Mapping[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """Give what `run.json` holds; `others` replace its own keys."""
    content = {
        "format": 1,
        "run_id": "20261127T021432Z-4f303a",
        "recipe": recipe(changes),
        "versions": {"python": "3.11.7", "platform": "Linux", **dict.fromkeys(RECORDED_PACKAGES, "1.0")},
        "hashes": {"data": "d" * 64, "weights": "random:42:sha256:" + "a" * 64},
        "started": "2026-11-27T02:14:32Z",
        "command": ["qvl", "run", "recipe.toml"],
        "result": None,
        "history": [],
    }
    return {**content, **others}


def rows(steps: Iterable[int], *, scale: float = 1.0, total: int = 300) -> list[dict[str, Any]]:
    """Give rows as a training writes them."""
    return [
        {
            "step": step,
            "loss": scale * 6.0 * math.exp(-step / 40) + 0.05 + 0.01 * math.sin(step),
            "gradient_norm": 5.0 / step,
            "lr": 1e-3 * (1 - step / (total + 1)),
            "tokens": 740,
            "samples": 16,
            "step_time_s": 0.5,
            "data_s": 0.03,
            "forward_s": 0.2,
            "backward_s": 0.22,
            "communication_s": 0.01,
            "waiting_s": 0.01,
            "optimizer_s": 0.02,
            "other_s": 0.01,
            "tokens_per_s": 1480.0,
            "memory_gib": 0.6 + step / 1000,
            "memory_peak_gib": 0.7 + step / 1000,
        }
        for step in steps
    ]


def validations(steps: Iterable[int]) -> list[dict[str, Any]]:
    """Give rows of validations."""
    return [{"step": step, "validation_loss": 6.1 * math.exp(-step / 40) + 0.1, "validation_s": 0.4} for step in steps]


def write_run(
    folder: Path,
    lines: Sequence[Mapping[str, Any] | str] | None = None,
    *,
    content: Mapping[str, Any] | str | None = None,
    memory: Sequence[float] | None = None,
) -> Path:
    """Write the folder of a run: `run.json` if there is `content`, metrics if there are `lines`, texts as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "run.json").write_text(text, encoding="utf-8")
    if lines is not None:
        texts = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
        (folder / "metrics.jsonl").write_text("".join(texts), encoding="utf-8")
    if memory is not None:
        (folder / "memory.json").write_text(json.dumps({"peak_memory_gib": list(memory)}), encoding="utf-8")
    return folder
