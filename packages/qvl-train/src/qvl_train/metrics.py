"""The numbers of a run, a JSON line a step, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from qvl_core.durable import atomic_write

Row = Mapping[str, float | int | str | Sequence[str] | Sequence[float]]


class MetricsLog:
    """Append rows to `metrics.jsonl` and, when asked, to `tensorboard/`. Use it as a context manager.

    Opening it for a run that resumes at `step` drops the rows of later steps, which the run is about to repeat.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool) -> None:
        self._path = folder / "metrics.jsonl"
        _drop_rows_after(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, row: Row) -> None:
        """Append one row; it must have a `step`. Numbers also go to TensorBoard under their own key."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            # One event for the whole row: `add_scalar` writes one for each number, some 50 microseconds each.
            self._board.file_writer.add_summary(self._summary(row), row["step"])

    def _summary(self, row: Row) -> Any:
        from tensorboardX.proto.summary_pb2 import Summary

        numbers = {key: value for key, value in row.items() if key != "step" and isinstance(value, (int, float))}
        return Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in numbers.items()])

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
    kept = [row for row in read_metrics(path) if row["step"] <= step]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
