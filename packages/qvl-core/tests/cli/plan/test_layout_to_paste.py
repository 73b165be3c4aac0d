"""The layout that `qvl plan` gives to paste, with the settings that go with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli
from plan_calls import SIXTY_FOUR, Call, values_of
from qvl_core import load_recipe


def test_the_layout_can_be_pasted_and_is_planned_the_same(qvl: Call, large: str, folder: Path) -> None:
    result = qvl("plan", large, *SIXTY_FOUR, "--format", "toml")
    assert result.code == 0
    layout = tomli.loads(result.out)["layout"]
    before, _, after = (folder / large).read_text().partition("[layout]")
    after = after[after.index("\n[") :]
    settings = [
        word
        for line in result.out.splitlines()
        if line.startswith("# goes with")
        for word in line.split()
        if "=" in word
    ]
    (folder / "pasted.toml").write_text(f"{before}\n{result.out}\n{after}")
    recipe = load_recipe("pasted.toml", settings)
    assert recipe.parallel.world_size == 64
    assert list(recipe.parallel.text_stages) == layout["text_stages"]
    assert "GiB on each rank" in qvl("show", "pasted.toml", *(w for s in settings for w in ("--set", s))).out


@pytest.mark.parametrize("devices", [12, 36, 192])
def test_settings_that_go_with_a_layout_make_up_its_devices(qvl: Call, large: str, devices: int) -> None:
    words = ("--devices", str(devices), "--memory-gib", "256", "--format", "toml")
    out = qvl("plan", large, *words).out
    layout = tomli.loads(out)["layout"]
    line = next(line for line in out.splitlines() if line.startswith("# goes with"))
    overrides = [word for word in line.split() if "=" in word]
    overrides += [f"layout.{key}={json.dumps(value)}" for key, value in layout.items()]
    assert load_recipe(large, overrides).parallel.world_size == devices


@pytest.mark.parametrize(("devices", "nodes", "each"), [(1, 1, 1), (4, 1, 4), (8, 1, 8), (16, 2, 8), (12, 2, 6)])
def test_a_recipe_for_one_device_fills_machines_before_it_takes_more(
    qvl: Call, answers: str, devices: int, nodes: int, each: int
) -> None:
    out = qvl("plan", answers, "--devices", str(devices), "--format", "toml").out
    overrides = [word for line in out.splitlines() if line.startswith("# goes with") for word in line.split()]
    overrides = [word for word in overrides if "=" in word]
    overrides += [f"layout.{key}={json.dumps(value)}" for key, value in tomli.loads(out)["layout"].items()]
    launch = load_recipe(answers, overrides).launch
    assert (launch.nodes, launch.devices_per_node) == (nodes, each)


def test_a_recipe_for_several_machines_keeps_their_size(qvl: Call, large: str) -> None:
    words = ("--set", "launch.nodes=16", "--set", "launch.devices_per_node=4")
    out = qvl("plan", large, *words, "--devices", "32", "--memory-gib", "256", "--format", "toml").out
    assert "launch.nodes=8 --set launch.devices_per_node=4" in " ".join(out.split())


def test_a_micro_batch_that_changes_the_losses_is_told(qvl: Call, large: str) -> None:
    words = (large, "--devices", "64", "--memory-gib", "256", "--top", "1")
    weighed = ("--set", "train.loss_reduction=micro_batch")
    (plan,) = values_of(qvl, *words, *weighed)["plans"]
    size = plan["micro_batch"]
    assert size > 1
    said = f"changes the losses: train.micro_batch is {size} instead of 1"
    assert any(said in line for line in plan["reasons"])
    assert said in qvl("plan", *words, *weighed).out
    pasted = qvl("plan", *words, *weighed, "--format", "toml").out
    assert f"# {said}" in pasted
    assert list(tomli.loads(pasted)) == ["layout"]
    # Neither a loss of tokens nor the micro batch that the recipe has changes anything.
    assert "losses" not in qvl("plan", *words).out
    same = ("--set", f"train.micro_batch={size}", "--set", "train.global_batch=192")
    assert "losses" not in qvl("plan", *words, *weighed, *same, "--format", "toml").out


@pytest.mark.parametrize("width", [30, 60, 80])
def test_the_layout_to_paste_is_not_folded_on_a_terminal(
    large: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import StringIO

    from qvl_core.cli import terminal
    from qvl_core.cli.app import build_app
    from rich.console import Console

    target = Console(file=StringIO(), width=width, highlight=False, emoji=False, markup=False, force_terminal=True)
    monkeypatch.setattr(terminal, "console", lambda: target)
    build_app(["plan"])(["plan", large, "--devices", "32", "--memory-gib", "256", "--top", "1"], standalone_mode=False)
    written = target.file.getvalue()  # type: ignore[attr-defined]
    pasted = written.split("To paste into the recipe")[1].partition("\n")[2]
    assert list(tomli.loads(pasted)) == ["layout"]
    assert next(line for line in pasted.splitlines() if line.startswith("# goes with")).count("--set") >= 2
