"""Work that hangs or dies is named and left behind; an interrupt ends at once."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from qvl_core.errors import RunError
from qvl_data import batches, prepare
from qvl_data.dataset import Dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_hangs_is_named_with_what_it_does_and_holds_up_nobody(
    make_recipe: Callable[..., Any], data_file: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([data_file], workers=workers, sample_timeout_s=1.5)
    data = prepare(recipe)
    # Once before, without a limit: what is imported late is not what hangs.
    for index in range(len(data.train)):
        data.train.sample(index)
    gate = threading.Event()

    def hang(path: Path, facts: object) -> None:
        gate.wait()

    monkeypatch.setattr("qvl_data.samples.load_image", hang)
    monkeypatch.setattr("qvl_data.batching.worker_threads._PATIENCE_S", 0.01)
    try:
        with pytest.raises(RunError) as error, batches(data, recipe=recipe) as steps:
            list(islice(steps, 3))
    finally:
        gate.set()
    assert re.match(rf"{data_file}:\d+: not done after \d+\.\d s, the limit is 1.5 s; it hangs in ", str(error.value))
    assert "(samples.py:" in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_that_dies_is_named_with_its_sample(
    make_recipe: Callable[..., Any], data_file: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([data_file], workers=workers)
    data = prepare(recipe)

    def leave(self: Dataset, index: int) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(Dataset, "sample", leave)
    with pytest.raises(RunError, match=rf"{data_file}:\d+: the data worker died of SystemExit: 3"):
        next(batches(data, recipe=recipe))


def test_an_interrupt_while_waiting_for_a_slow_sample_ends_at_once(
    make_recipe: Callable[..., Any], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe([data_file])
    data = prepare(recipe)
    gate, begun = threading.Event(), threading.Event()

    def slow(self: Dataset, index: int) -> None:
        begun.set()
        gate.wait()

    monkeypatch.setattr(Dataset, "sample", slow)
    monkeypatch.setattr("qvl_data.batching.worker_threads._PATIENCE_S", 0.01)
    sender = threading.Thread(target=lambda: begun.wait() and os.kill(os.getpid(), signal.SIGINT))
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt), batches(data, recipe=recipe) as steps:
            next(steps)
    finally:
        gate.set()
        sender.join()
