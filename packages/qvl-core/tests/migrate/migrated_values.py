"""What a migration holds, for tests: its recipes by task, their values, and what is read back of the written ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvl_core.migrate.migration import Made, Migration, write
from qvl_core.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[4]
FINETUNE_FILE = "finetune_qwen2_5_vl_7b.sh"
Run = Callable[[], Migration]


def made(migration: Migration, task: str) -> Made:
    return next(one for one in migration.made if one.task == task)


def values(migration: Migration, task: str) -> dict[str, Any]:
    return {row.key: row.value for row in made(migration, task).values}


def flat(table: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


def written(migration: Migration, folder: Path) -> dict[str, dict[str, Any]]:
    write(migration, folder, {})
    return {path.stem: flat(load_recipe(path).resolved()) for path in folder.glob("*.toml")}
