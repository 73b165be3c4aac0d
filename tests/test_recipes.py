"""The shipped recipes: all there, all clean, and each opens with what a reader needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qvl_core import load_recipe
from qvl_core.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("3b", "7b", "32b", "72b")
SHIPPED = sorted(
    [
        *(f"{size}_{task}" for size in SIZES for task in ("sft", "eval", "infer")),
        "7b_video_sft",
        "7b_lora_sft",
        "tiny_sft",
        "tiny_lora_sft",
        "tiny_mixed_sft",
        "tiny_eval",
        "tiny_infer",
    ]
)
STATUS = {"simulated", "cpu-tiny", "device-verified"}


@pytest.fixture(autouse=True)
def project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    # Paths in recipes are relative to where commands run: the project's root.
    monkeypatch.chdir(ROOT)


def shipped(name: str, *overrides: str) -> Recipe:
    return load_recipe(f"recipes/{name}.toml", overrides)


def header_of(name: str) -> dict[str, str]:
    lines = (ROOT / "recipes" / f"{name}.toml").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    found = {"what": lines[0].lstrip("# ")}
    for line in lines:
        if labelled := re.fullmatch(r"# (command|hardware|layout|status) +(\S.*)", line):
            found[labelled[1]] = labelled[2]
    return found


def test_the_list_of_recipes_is_complete() -> None:
    assert sorted(path.stem for path in (ROOT / "recipes").glob("*.toml")) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_loads_without_a_warning(name: str) -> None:
    recipe = shipped(name)
    assert recipe.warnings == ()
    assert recipe.task == name.rpartition("_")[2]
    assert recipe.output.dir == f"runs/{name}"


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_opens_with_what_how_and_on_what(name: str) -> None:
    header = header_of(name)
    assert len(header["what"]) > 20
    assert f"recipes/{name}.toml" in header["command"]
    assert header["hardware"]
    assert header["status"].partition(":")[0] in STATUS


@pytest.mark.parametrize("name", SHIPPED)
def test_hardware_of_the_header_is_that_of_the_recipe(name: str) -> None:
    recipe, hardware = shipped(name), header_of(name)["hardware"]
    if recipe.launch.device == "cpu":
        assert hardware.startswith("CPU")
    else:
        assert hardware.startswith(f"{recipe.parallel.world_size} Ascend")


@pytest.mark.parametrize("name", SHIPPED)
def test_measurements_are_stated_only_where_someone_measured(name: str) -> None:
    status = header_of(name)["status"].partition(":")[0]
    assert (shipped(name).expected is None) or status != "simulated"


@pytest.mark.parametrize(
    ("name", "tp", "pp", "dp", "text", "batch"),
    [
        ("3b_sft", 1, 1, 8, (36,), 256),
        ("7b_sft", 1, 4, 2, (1, 10, 10, 7), 192),
        ("32b_sft", 2, 8, 1, (1, 9, 9, 9, 9, 9, 9, 9), 96),
        ("72b_sft", 2, 8, 4, (6, 11, 11, 11, 11, 11, 11, 8), 384),
    ],
)
def test_training_layouts_are_the_published_ones(
    name: str, tp: int, pp: int, dp: int, text: tuple[int, ...], batch: int
) -> None:
    recipe = shipped(name)
    layout = recipe.parallel
    assert (layout.tp, layout.pp, layout.dp, layout.text_stages) == (tp, pp, dp, text)
    assert layout.vision_stages == (32, *[0] * (pp - 1))
    assert recipe.train is not None
    assert recipe.train.global_batch == batch
    assert recipe.train.optimizer.lr == 1e-5
    assert recipe.model.freeze == ("vision", "merger")


def test_tiny_training_takes_a_second_stage_by_one_override() -> None:
    recipe = shipped("tiny_sft", "layout.pp=2")
    assert recipe.parallel.world_size == 2
    assert recipe.warnings == ()
    assert recipe.origins["layout.vision_stages"].kind == "derived"


def test_later_reference_layout_of_7b_is_one_command_away() -> None:
    recipe = shipped("7b_sft", "layout.pp=2", "layout.dp=4", "layout.vision_stages=", "layout.text_stages=")
    assert recipe.parallel.text_stages == (12, 16)


def test_tiny_recipes_follow_each_other() -> None:
    trained = shipped("tiny_sft").output.dir
    for name in ("tiny_eval", "tiny_infer"):
        recipe = shipped(name)
        assert recipe.weights.source == f"{trained}/hf"
        assert recipe.data.image == shipped("tiny_sft").data.image


@pytest.mark.parametrize("name", ["tiny_sft", "tiny_eval"])
def test_files_of_the_tiny_recipes_are_in_the_repository(name: str) -> None:
    recipe = shipped(name)
    paths = [source.path for source in recipe.data.sources] + [source.media_root for source in recipe.data.sources]
    if recipe.eval is not None:
        paths.append(recipe.eval.data)
    if recipe.weights.init == "random":
        paths.append(recipe.weights.source)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
