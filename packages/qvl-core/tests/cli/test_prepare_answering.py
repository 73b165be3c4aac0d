"""Commands that answer: in this process, or with workers, whatever the recipe's task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from qvl_core.cli import launch
from qvl_core.errors import NotInstalledError
from qvl_core.launch import supervisor
from qvl_core.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("QVL_DEVICE", "MS_DEV_HOST_BLOCKING_RUN", "HF_HUB_OFFLINE"):
        # Set before it is taken away, so that what the test puts there is taken back.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def test_one_process_gets_the_environment_itself() -> None:
    assert launch.prepare_answering(load_recipe("recipes/tiny_infer.toml"), (), "infer") is None
    assert os.environ["QVL_DEVICE"] == "cpu"


def test_workers_answer_for_any_task_log_apart_and_get_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(launch, "find_worker", lambda name: started.append(name))
    monkeypatch.setattr("qvl_core.launch.processes.real_command", lambda command, path: tuple(command))
    monkeypatch.setattr(supervisor, "supervise", lambda start, screen, stop: started.append((start, screen)))
    words = ["layout.tp=2", "output.dir=runs/x"]
    start_workers = launch.prepare_answering(load_recipe("recipes/tiny_sft.toml", words), words, "serve")
    assert start_workers is not None
    assert "QVL_DEVICE" not in os.environ, "this process runs no model"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    start_workers(variables={"QVL_LINK": "here"}, shown=False)
    assert started[0] == "infer"
    start, screen = started[1]
    assert screen is None
    assert start.command[-2:] == ("--task", "infer")
    assert start.shown_logs == Path("runs/x/logs/serve")
    environment: Mapping[str, str] = start.environment
    assert (environment["QVL_LINK"], environment["QVL_DEVICE"]) == ("here", "cpu")


def test_without_the_package_that_brings_the_workers_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    with pytest.raises(NotInstalledError, match="qvl-eval"):
        launch.prepare_answering(load_recipe("recipes/tiny_infer.toml", ["layout.tp=2"]), ["layout.tp=2"], "chat")
