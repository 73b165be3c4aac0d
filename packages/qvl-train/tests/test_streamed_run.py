"""A run on streamed data that was stopped goes on to the bit, packed or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training runs the model")

from whole_runs import losses, stop_after, train

SOURCE = 'data.sources=[{path="train.jsonl",format="llava",media_root="."}]'


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_stopped_run_has_the_losses_of_one_that_was_not(
    project: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = json.loads((project / "train.json").read_text())
    Path("train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = (SOURCE, "data.streaming=true", f"data.packing={packing}", "data.shuffle_buffer=10", "train.steps=5")
    whole = train(*settings, "output.dir=whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train(*settings)
    assert len(losses()) == 3
    assert train(*settings) == whole == 0
    assert losses() == losses("whole")
