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


LARGE_ANSWERS = ("--set", "model.name=qwen2.5-vl-72b")


@pytest.mark.parametrize(("devices", "nodes", "each"), [(12, 3, 4), (20, 5, 4), (16, 2, 8)])
def test_machines_to_paste_hold_tensor_groups_and_are_those_planned(
    qvl: Call, answers: str, devices: int, nodes: int, each: int
) -> None:
    """Twelve devices were two machines of six, and the second group of four on both."""
    words = (answers, *LARGE_ANSWERS, "--devices", str(devices), "--top", "1")
    out = qvl("plan", *words, "--format", "toml").out
    assert tomli.loads(out)["layout"]["tp"] == 4
    line = next(line for line in out.splitlines() if line.startswith("# goes with"))
    assert f"launch.nodes={nodes} --set launch.devices_per_node={each}" in line
    settings = [word for word in line.split() if "=" in word]
    settings += [f"layout.{key}={json.dumps(value)}" for key, value in tomli.loads(out)["layout"].items()]
    shown = qvl("show", answers, *LARGE_ANSWERS, *(word for one in settings for word in ("--set", one))).out
    time = next(line for line in out.splitlines() if " s for " in line).partition("about ")[2].partition(" (")[0]
    assert f"about {time}" in " ".join(shown.split())
    assert "tensor groups" not in shown


def test_a_recipe_for_as_many_devices_on_several_machines_is_planned_on_them(qvl: Call, answers: str) -> None:
    six = ("--set", "launch.nodes=2", "--set", "launch.devices_per_node=6", "--set", "layout.dp=12")
    words = (answers, *LARGE_ANSWERS, *six)
    assert "goes with" not in qvl("plan", *words, "--format", "toml").out
    told = {
        any("lie over several machines" in line for line in plan["reasons"]): plan["layout"]["tp"]
        for plan in values_of(qvl, *words)["plans"]
    }
    assert told[True] == 4
    shown = qvl("show", *words, *("--set", "layout.tp=4", "--set", "layout.dp=3")).out
    assert "note: tensor groups of 4 lie over several machines" in " ".join(shown.split())
    other = qvl("plan", *words, "--devices", "20", "--format", "toml").out
    assert "launch.nodes=5 --set launch.devices_per_node=4" in other


@pytest.mark.parametrize(
    ("devices", "head", "note"),
    [
        (4, "4 x ascend-910b2, 64", ""),
        (16, "16 x ascend-910b2 on 2 machines, 64", ""),
        (
            11,
            "11 x ascend-910b2 on 11 machines, 64",
            "the first plan is on 11 machines with 1 device each; --devices 8 or 16 would",
        ),
    ],
)
def test_machines_are_said_first_and_where_they_are_not_whole(
    qvl: Call, answers: str, devices: int, head: str, note: str
) -> None:
    """Eleven machines with a device each were said in a comment above the layout only."""
    shown = " ".join(qvl("plan", answers, "--devices", str(devices)).out.split())
    assert head in shown.partition("The best")[0]
    assert note in shown.partition("lengths:")[0]
    assert ("do not fill" in shown) is bool(note)


@pytest.mark.parametrize("devices", [12, 16])
def test_processes_of_a_cpu_run_are_on_one_machine(qvl: Call, tiny: str, devices: int) -> None:
    words = (tiny, "--set", "train.global_batch=48", "--devices", str(devices), "--memory-gib", "64")
    found = values_of(qvl, *words, "--top", "1")
    assert not any("machine" in line for line in found["plans"][0]["reasons"])
    assert f"launch.nodes=1 --set launch.devices_per_node={devices}" in qvl("plan", *words, "--format", "toml").out


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
