"""The answers of a run, one JSON object a line, only ever appended to: what a killed run has done stays done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from qvl_core.durable import explained
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import printable

LOG_NAME = "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An answered row. `protocol` is the digest of everything that decides the answer apart from the row itself.

    Nothing in it depends on when or how fast the row was answered: an interrupted run ends with the same file.
    """

    protocol: str
    index: str
    category: str
    question: str
    answer: str
    prediction: str
    new_tokens: int


class PredictionLog:
    """Append answers; each call of `add` is on the disk when it returns. One process at a time: see FolderLock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> PredictionLog:
        with explained(self._path):
            self._file = self._path.open("ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append the predictions, all with one write. Raises RunError when the disk is full."""
        assert self._file is not None, "add outside of the with block"
        lines = [json.dumps(asdict(prediction), ensure_ascii=False) + "\n" for prediction in predictions]
        with explained(self._path):
            self._file.write("".join(lines).encode("utf-8"))
            self._file.flush()
            os.fsync(self._file.fileno())


def read_predictions(path: Path, protocol: str) -> Mapping[str, Prediction]:
    """Give what is already answered, by row index; nothing where there is no file.

    A last line without its line end is the trace of a kill; it is cut off the file, so its row is answered again.
    Raises OutputError for any other broken line, and for an answer given under another protocol.
    """
    if not path.exists():
        return {}
    with explained(path):
        data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with explained(path):
            os.truncate(path, len(whole))
    found: dict[str, Prediction] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        prediction = _parsed(path, number, line)
        if prediction.protocol != protocol:
            message = f"row {printable(prediction.index, 60)} was answered with other weights, data or settings"
            raise OutputError(_problem(path, number, message))
        found[prediction.index] = prediction
    return found


def _parsed(path: Path, number: int, line: bytes) -> Prediction:
    try:
        return _checked(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise OutputError(_problem(path, number, f"is not a prediction: {printable(str(error))}")) from None


def _checked(value: object) -> Prediction:
    if not isinstance(value, dict):
        raise ValueError("the line is not a JSON object")
    prediction = Prediction(**value)
    texts = {key: text for key, text in asdict(prediction).items() if key != "new_tokens"}
    wrong = [key for key, text in texts.items() if not isinstance(text, str)]
    if wrong or not isinstance(prediction.new_tokens, int):
        raise ValueError(f"wrong type: {', '.join(wrong) or 'new_tokens'}")
    return prediction


def _problem(path: Path, number: int, message: str) -> Problem:
    fix = "choose another folder: --set output.dir=runs/another_name"
    return Problem(where=f"{path}:{number}", key="output.dir", message=message, fix=fix)
