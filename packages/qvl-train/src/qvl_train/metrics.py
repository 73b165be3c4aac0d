"""The numbers of a run, a JSON line a step, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from qvl_core.durable import atomic_write

from qvl_train.append_file import AppendFile
from qvl_train.tensorboard import TensorBoard

Row = Mapping[str, float | int | str | Sequence[str] | Sequence[float]]


class MetricsLog:
    """Append rows to `metrics.jsonl` and, when asked, to `tensorboard/`. Use it as a context manager.

    Opening it for a run that resumes at `step` drops the rows of later steps, which the run is about to repeat. On a
    full disk a call raises DiskError, and leaves no part of a row behind: the next call may work again.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool) -> None:
        self._path = folder / "metrics.jsonl"
        _drop_rows_after(self._path, step)
        self._file = AppendFile(self._path)
        self._board = TensorBoard(folder / "tensorboard", purge_step=step + 1) if tensorboard else None

    def write(self, row: Row) -> None:
        """Append one row; it must have a `step`. Numbers also go to TensorBoard under their own key."""
        self._file.append((json.dumps(row) + "\n").encode())
        if self._board is not None:
            numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and key != "step"}
            self._board.write(cast("int", row["step"]), numbers)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows; a last line that a kill cut short is left out, as its step will be repeated."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    # What begins anew repeats the validation before the first step too.
    kept = [row for row in read_metrics(path) if step and row["step"] <= step]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
