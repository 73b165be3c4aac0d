"""`qvl run`: the dry run, what is checked before a start, and the hand-over to the task."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from qvl_core import tasks
from qvl_core.cli import launch
from qvl_core.errors import NotInstalledError
from qvl_core.launch import processes
from qvl_core.launch.ports import free_port
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec, to_hf_config
from qvl_core.tasks import RunOptions

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))

from sharded_folders import write_sharded


@pytest.fixture
def ready(folder: Path) -> Path:
    """A folder in which tiny.toml has everything that it names."""
    (folder / "weights").mkdir()
    (folder / "weights" / "config.json").write_text(json.dumps(to_hf_config(load_spec("qwen2.5-vl-tiny"))))
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, RunOptions]]:
    """Replace the task by one that notes its call, and protect the environment."""
    calls: list[tuple[str, RunOptions]] = []

    def task(recipe, options: RunOptions) -> int:
        calls.append((recipe.path, options))
        return 5

    monkeypatch.setattr(launch, "load_task", lambda name: task)
    monkeypatch.setattr(os, "environ", {**os.environ})
    return calls


def test_a_run_of_one_process_calls_the_task_and_gives_its_exit_code(qvl, ready: Path, started) -> None:
    result = qvl("run", "tiny.toml", "--resume", "never", "--debug")
    assert result.code == 5
    assert started == [("tiny.toml", RunOptions(resume="never", debug=True))]
    assert os.environ["QVL_DEVICE"] == "cpu"


def test_the_recipes_environment_wins_over_the_shell_and_that_is_said(qvl, ready: Path, started) -> None:
    os.environ.update({"HCCL_BUFFSIZE": "100", "MS_DEV_HOST_BLOCKING_RUN": "0"})
    result = qvl("run", "tiny.toml", "--set", "env.HCCL_BUFFSIZE=300")
    assert os.environ["HCCL_BUFFSIZE"] == "300"
    assert "HCCL_BUFFSIZE is 100 in this shell and 300 in the recipe" in result.err
    # qvl's own default, in contrast, gives way to the shell.
    assert os.environ["MS_DEV_HOST_BLOCKING_RUN"] == "0"


def test_missing_weights_and_data_end_with_2_and_nothing_is_started_or_written(qvl, folder: Path, started) -> None:
    (folder / "data.json").unlink()
    before = sorted(folder.iterdir())
    result = qvl("run", "tiny.toml")
    assert result.code == 2
    assert "tiny.toml:11: weights.source\n  weights does not exist" in result.err
    assert "fix: train first: qvl run recipes/tiny_sft.toml, or --set weights.source=DIR" in result.err
    assert "data.sources[0].path\n  data.json does not exist" in result.err
    assert "2 problems" in result.err
    assert started == []
    assert sorted(folder.iterdir()) == before


def test_a_task_that_runs_in_one_process_refuses_several(
    qvl, ready: Path, started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.metadata, "entry_points", lambda group, name: ["task"] if group == "qvl.tasks" else [])
    result = qvl("run", "tiny.toml", "--set", "layout.dp=2")
    assert result.code == 3
    assert 'task = "sft" runs in one process in this version\n  fix: ' in result.err
    assert started == []


def test_several_processes_run_the_task_here_with_a_way_to_start_the_workers(
    qvl, ready: Path, started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "find_worker", lambda name: None)
    monkeypatch.setattr(processes, "real_command", lambda command, path: command)
    device = os.environ.get("QVL_DEVICE")
    result = qvl("run", "tiny.toml", "--set", "layout.dp=2", "--set", f"launch.master=localhost:{free_port()}")
    assert result.code == 5, result.err
    ((path, options),) = started
    assert path == "tiny.toml"
    assert options.node_rank == 0
    assert callable(options.start_workers)
    # What the launcher itself needs; the rest is for the workers.
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ.get("QVL_DEVICE") == device


def test_several_machines_need_to_know_which_one_this_is(qvl, folder: Path, started) -> None:
    (folder / "ckpt" / "72b").mkdir(parents=True)
    config = to_hf_config(load_spec("qwen2.5-vl-72b"))
    (folder / "ckpt" / "72b" / "config.json").write_text(json.dumps(config))
    result = qvl("run", "72b.toml", "--set", "weights.init=random")
    assert result.code == 2
    assert "launch.nodes is 8, and nothing says which of them this machine is" in result.err
    assert started == []


def test_a_wrong_recipe_ends_with_2_also_in_a_dry_run(qvl, folder: Path) -> None:
    for words in ((), ("--dry-run",)):
        result = qvl("run", "tiny.toml", "--set", "train.global_batch=7", *words)
        assert result.code == 2
        assert "train.global_batch" in result.err
        assert result.out == ""


def test_weights_of_another_model_end_with_2_also_in_a_dry_run(qvl, ready: Path, started) -> None:
    (ready / "weights" / "config.json").write_text(json.dumps(to_hf_config(load_spec("qwen2.5-vl-3b"))))
    assert qvl("run", "tiny.toml").code == 2
    assert "text.num_layers: 4, found 36" in qvl("run", "tiny.toml", "--dry-run").err
    assert started == []


@pytest.fixture
def sharded(ready: Path) -> Path:
    """The folder of tiny.toml with weights that are cut for two stages and two tensor ranks."""
    spec = load_spec("qwen2.5-vl-tiny")
    arrays = {row.name: np.zeros(row.shape, np.float32) for row in parameter_table(spec)}
    layout = Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3))
    write_sharded(ready / "weights", spec, layout, arrays)
    return ready


USE = ("--set", "weights.init=checkpoint")


def test_weights_of_another_layout_end_with_2_and_the_command_that_cuts_them(qvl, sharded: Path, started) -> None:
    for words in ((), ("--dry-run",)):
        result = qvl("run", "tiny.toml", *USE, *words)
        assert result.code == 2
        assert "tp is 2 in the folder, 1 in the recipe" in result.err
        assert (
            "fix: qvl convert reshard --sharded weights --out weights-tp1-pp1 --tp 1 --pp 1 "
            "--vision-stages 4 --text-stages 4\n"
            '       then set weights.source = "weights-tp1-pp1"\n'
            "       or qvl run tiny.toml --reshard" in result.err
        )
    assert started == []


def test_the_command_that_reshards_is_quoted_and_says_to_keep_what_was_set(qvl, sharded: Path) -> None:
    Path("tiny.toml").rename("my tiny.toml")
    assert "or qvl run 'my tiny.toml' --reshard and every --set as before: cuts" in qvl("run", "my tiny.toml", *USE).err
    recipe = Path("my tiny.toml").read_text()
    Path("stated.toml").write_text(recipe.replace('init = "random"', 'init = "checkpoint"'))
    assert "or qvl run stated.toml --reshard: cuts" in qvl("run", "stated.toml").err


def test_reshard_says_from_which_layout_into_which_and_starts_the_task_with_it(qvl, sharded: Path, started) -> None:
    before = sorted(sharded.rglob("*"))
    result = qvl("run", "tiny.toml", *USE, "--reshard")
    assert result.code == 5
    assert started == [("tiny.toml", RunOptions(reshard=True))]
    assert (
        "qvl: weights is cut for tp 2, pp 2 (vision stages 4,0; text stages 1,3); "
        "this run has tp 1, pp 1 (vision stages 4; text stages 4)\n" in result.err
    )
    assert "nothing is written" in result.err
    assert sorted(sharded.rglob("*")) == before


def test_reshard_says_nothing_where_it_changes_nothing(qvl, ready: Path, started) -> None:
    assert "--reshard" not in qvl("run", "tiny.toml", "--reshard").err
    assert started == [("tiny.toml", RunOptions(reshard=True))]


def test_a_sharded_folder_without_its_config_is_refused(qvl, sharded: Path, started) -> None:
    (sharded / "weights" / "config.json").unlink()
    result = qvl("run", "tiny.toml", *USE, "--reshard")
    assert result.code == 2
    assert "weights has no config.json" in result.err


def test_a_dry_run_shows_everything_and_starts_nothing(qvl, folder: Path, started) -> None:
    before = sorted(folder.iterdir())
    result = qvl("run", "72b.toml", "--dry-run", "--set", "train.steps=5")
    assert result.code == 0
    for text in (
        "dry run: nothing is started and nothing is written",
        "64 processes on 8 machines, ascend, by msrun",
        "HCCL_CONNECT_TIMEOUT=1200",
        "--worker_num=64",
        "--set train.steps=5",
        "not found here",
        "ckpt/72b",
    ):
        assert text in result.out
    assert started == []
    assert sorted(folder.iterdir()) == before


def test_a_dry_run_of_one_machine_shows_its_command_and_ranks_only(qvl, folder: Path) -> None:
    out = qvl("run", "72b.toml", "--dry-run", "--node-rank", "3").out
    assert "--node_rank=3" in out
    ranks = out[out.index("ranks\n") :].split("\n\n")[0].splitlines()[2:]
    assert [line.split()[:2] for line in ranks] == [["24-31", "3"]]


@pytest.mark.parametrize(("option", "value"), [("--node-rank", "8"), ("--resume", "runs/none")])
def test_options_that_fit_nothing_end_with_2(qvl, folder: Path, option: str, value: str) -> None:
    result = qvl("run", "72b.toml", "--dry-run", option, value)
    assert result.code == 2
    assert f"command line: {option}" in result.err
    assert qvl("run", "72b.toml", "--dry-run", "--node-rank", "7").code == 0


def test_a_dry_run_says_which_package_is_missing(qvl, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise NotInstalledError("not there\n  fix: pip install 'qvl-train[mindspore]'")

    monkeypatch.setattr(tasks, "find_task", missing)
    result = qvl("run", "tiny.toml", "--dry-run")
    assert result.code == 0
    assert "pip install 'qvl-train[mindspore]'" in result.out


def test_a_missing_package_ends_with_3_and_the_pip_command(qvl, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.metadata, "entry_points", lambda **_: ())
    monkeypatch.setattr(os, "environ", {**os.environ})
    result = qvl("run", "tiny.toml")
    assert result.code == 3
    assert 'task = "sft" is run by the package qvl-train, which is not installed' in result.err
    assert "fix: pip install 'qvl-train[mindspore]'" in result.err
