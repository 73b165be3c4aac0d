"""A draft as the text of a recipe: one key a line, each with the place that its value comes from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

from qvl_core.migrate.ledger import Carried, RecipeDraft

_TABLES = (
    *("model", "layout", "weights", "data", "data.image", "data.video", "data.validation", "train"),
    *("train.optimizer", "train.schedule", "train.lora", "train.save", "train.log", "generation", "eval", "infer"),
    *("env", "launch", "output"),
)
_DOES = {"sft": "Fine-tune {model}", "eval": "Score {model} on {benchmark}", "infer": "Answer questions with {model}"}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def in_order(rows: Iterable[Carried]) -> tuple[Carried, ...]:
    """Give values table by table, as a recipe has them."""
    return tuple(sorted(rows, key=lambda row: _TABLES.index(row.key.rpartition(".")[0])))


def recipe_text(draft: RecipeDraft, folder: str, path: str) -> str:
    """Give the recipe; `folder` is where the old files lie, `path` where the recipe will lie."""
    model = draft.model.replace("qwen2.5-vl-", "Qwen2.5-VL-").replace("b", "B") or "the model"
    does = _DOES[draft.task].format(model=model, benchmark=draft.value("eval.benchmark", "a benchmark"))
    devices = draft.value("launch.devices_per_node", 1) * draft.value("launch.nodes", 1)
    lines = [
        f"# {does}; made by `qvl migrate {_comment(shlex.quote(folder))}`.",
        "#",
        f"# command   qvl run {_comment(shlex.quote(path))}",
        f"# hardware  {devices} Ascend NPU{'' if devices == 1 else 's'}",
        "# status    simulated: no NPU has run it",
        "#",
        "# Behind each value stands where it comes from; migration.txt has the rest.",
        "",
        "schema = 1",
        f'task = "{draft.task}"',
    ]
    for table in _TABLES:
        rows = [row for row in draft.rows.values() if row.key.rpartition(".")[0] == table]
        if rows:
            lines += ["", f"[{table}]", *(line for row in rows for line in _lines(row))]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """Write a value as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _lines(row: Carried) -> list[str]:
    name = row.key.rpartition(".")[2]
    source = f"{row.where} {row.said}" if row.where else ""
    remark = _comment("; ".join(part for part in (source, row.note) if part))
    if isinstance(row.value, list) and row.value and isinstance(row.value[0], dict):
        lines = [f"{_key(name)} = ["]
        lines += [f"  {toml_value(item)}," for item in row.value]
        return [*([f"# {remark}"] if remark else []), *lines, "]"]
    line = f"{_key(name)} = {toml_value(row.value)}"
    return [f"{line}  # {remark}" if remark else line]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _comment(text: str) -> str:
    """Keep a text inside its comment: a line end in a file's name must not start a line of the recipe."""
    return "".join(char if char.isprintable() else " " for char in text)
