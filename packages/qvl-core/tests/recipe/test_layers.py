"""extends, --set, and the origin of every value."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.recipe import Origin

BASE = """\
schema = 1
task = "sft"
[train]
steps = 10
global_batch = 8
[train.optimizer]
lr = 1e-3
betas = [0.8, 0.9]
"""
CHILD = """\
extends = "base/sft.toml"
schema = 1
[model]
name = "qwen2.5-vl-tiny"
[weights]
source = "weights"
[data]
sources = [{ path = "a.json" }]
[train.optimizer]
lr = 2e-3
[launch]
device = "cpu"
[output]
dir = "runs/x"
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    file = tmp_path / "base" / "sft.toml"
    file.write_text(BASE)
    return file


def test_tables_merge_and_values_replace(load, base) -> None:
    recipe = load(text=CHILD)
    assert recipe.train.optimizer.lr == 2e-3
    assert recipe.train.optimizer.betas == (0.8, 0.9)
    assert recipe.train.steps == 10


def test_lists_replace(load, base) -> None:
    assert load(text=CHILD.replace("lr = 2e-3", "betas = [0.5, 0.6]")).train.optimizer.betas == (0.5, 0.6)


def test_origins_name_file_and_line(load, base) -> None:
    origins = load("train.seed=7", text=CHILD).origins
    assert origins["train.optimizer.lr"] == Origin(kind="recipe", file="recipe.toml", line=10)
    assert origins["train.steps"] == Origin(kind="extends", file="base/sft.toml", line=4)
    assert origins["data.sources[0].path"] == Origin(kind="recipe", file="recipe.toml", line=8)
    assert origins["train.seed"] == Origin(kind="--set")
    assert origins["train.micro_batch"] == Origin(kind="default")
    assert origins["layout.text_stages"] == Origin(kind="derived")
    assert origins["launch.devices_per_node"] == Origin(kind="derived")


def test_every_resolved_value_has_an_origin(load, base) -> None:
    recipe = load(text=CHILD)

    def leaves(value: object, at: str) -> set[str]:
        if isinstance(value, dict):
            found = [leaves(item, f"{at}.{key}" if at else key) for key, item in value.items()]
            return set().union(*found) if found else set()
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return set().union(*(leaves(item, f"{at}[{index}]") for index, item in enumerate(value)))
        return {at}

    assert leaves(recipe.resolved(), "") == set(recipe.origins)


def test_problem_in_the_base_names_the_base(refuse, base) -> None:
    base.write_text(BASE.replace("betas = [0.8, 0.9]", "betas = [0.8, 1.9]"))
    (problem,) = refuse(text=CHILD)
    assert (problem.where, problem.key) == ("base/sft.toml:8", "train.optimizer.betas[1]")
    assert "is 1.9; it has to be less than 1" in problem.message


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("/etc/passwd", "stay below its folder"),
        ("../secret.toml", "stay below its folder"),
        ("base/../../secret.toml", "stay below its folder"),
        ("recipe.toml", "the recipe itself"),
        ("./base/../recipe.toml", "the recipe itself"),
    ],
)
def test_extends_outside_the_folder_or_itself(refuse, base, stated: str, message: str) -> None:
    (problem,) = refuse(text=CHILD.replace("base/sft.toml", stated))
    assert (problem.where, problem.key) == ("recipe.toml:1", "extends")
    assert message in problem.message


def test_extends_a_folder_or_nothing(refuse, base) -> None:
    assert refuse(text=CHILD.replace("base/sft.toml", "base"))[0].message == 'is "base": base is a folder, not a recipe'
    (problem,) = refuse(text=CHILD.replace("base/sft.toml", "base/no.toml"))
    assert (problem.where, problem.key) == ("recipe.toml:1", "extends")
    assert problem.message == 'is "base/no.toml": base/no.toml does not exist'


def test_extends_through_a_symlink_that_leaves_the_folder(refuse, base, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.toml"
    outside.write_text("password = 'hunter2'")
    (base.parent / "link.toml").symlink_to(outside)
    (problem,) = refuse(text=CHILD.replace("base/sft.toml", "base/link.toml"))
    assert problem.key == "extends"
    assert "hunter2" not in problem.render()


def test_extends_two_levels(refuse, base) -> None:
    base.write_text('extends = "more.toml"\n' + BASE)
    (problem,) = refuse(text=CHILD)
    assert problem.where == "recipe.toml:1"
    assert 'which extends "more.toml" in turn (base/sft.toml:1)' in problem.message


def test_extends_in_a_cycle(refuse, base) -> None:
    base.write_text('extends = "../recipe.toml"\n' + BASE)
    assert "one level is allowed" in refuse(text=CHILD)[0].message


@pytest.mark.parametrize("stated", ["5", '""', '"a\\u0000b"', "[1]"])
def test_extends_that_is_no_path(refuse, base, stated: str) -> None:
    (problem,) = refuse(text=CHILD.replace('"base/sft.toml"', stated))
    assert "path of a recipe" in problem.message


def test_set_takes_toml_values_and_bare_text(load) -> None:
    recipe = load("data.packing=true", "train.optimizer.betas=[0.5, 0.5]", "output.dir=runs/other", "train.seed=0x10")
    assert recipe.data.packing is True
    assert recipe.train.optimizer.betas == (0.5, 0.5)
    assert recipe.output.dir == "runs/other"
    assert recipe.train.seed == 16


def test_set_makes_tables_that_are_not_there(load) -> None:
    assert load("train.lora.rank=4").train.lora.rank == 4


def test_last_set_wins(load) -> None:
    assert load("train.seed=1", "train.seed=2").train.seed == 2


def test_set_without_a_value_takes_a_stated_value_back(load) -> None:
    recipe = load("train.micro_batch=")
    assert recipe.train.micro_batch == 1
    assert recipe.origins["train.micro_batch"].kind == "default"


def test_set_of_epochs_takes_steps_back(load) -> None:
    recipe = load("train.epochs=2")
    assert (recipe.train.steps, recipe.train.epochs) == (None, 2)


def test_set_of_config_takes_name_back(refuse) -> None:
    (problem,) = refuse("model.config=none/config.json")
    assert problem.key == "model.config"
    assert problem.where == "--set model.config=none/config.json"


def test_set_of_both_steps_and_epochs(refuse) -> None:
    (problem,) = refuse("train.steps=1", "train.epochs=1")
    assert problem.key == "train.epochs"
    assert "stated together with steps" in problem.message


def test_set_is_never_code(refuse) -> None:
    (problem,) = refuse("train.seed=__import__('os')")
    assert problem.message == "is \"__import__('os')\"; it has to be a whole number"


def test_set_cannot_smuggle_a_second_key_in(load) -> None:
    assert load("output.dir='a'\nseed=1").output.dir == "'a'\nseed=1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layout.pp", "has no ="),
        ("=1", "is not a dotted key"),
        ("layout..pp=1", "is not a dotted key"),
        ("data.sources[0].path=x", "is not a dotted key"),
        ("extends=other.toml", "can only be stated in the file"),
        ("data.sources.x=1", "data.sources is not a table"),
        ("data.sources.0.path=x", "data.sources is not a table"),
        ("layout.pq=1", "is not a key of recipes"),
        ("env.GLOG_v=" + "[" * 5000, "it has to be a whole number"),
    ],
)
def test_set_that_cannot_be_used(refuse, override: str, message: str) -> None:
    (problem,) = refuse(override)
    assert message in problem.message
    assert problem.where.startswith("--set ")
    assert len(problem.where) < 300


def test_wrong_set_and_wrong_file_are_told_together(refuse, small) -> None:
    found = refuse("nonsense", text=small.replace("tp = 1", "tp = 0"))
    assert {problem.key for problem in found} == {"", "layout.tp"}


def test_digest_follows_what_is_run(load, base) -> None:
    plain = load(text=CHILD)
    assert load(text=CHILD).digest() == plain.digest()
    assert load("train.seed=1", text=CHILD).digest() != plain.digest()
    # A default that is stated, and measurements that are added, change nothing that is run.
    assert load("train.micro_batch=1", text=CHILD).digest() == plain.digest()
    expected = '[expected]\nwhere = "here"\nwhen = "2026-01-31"\ncommand = "qvl run"\nloss_last = 0.5\n'
    assert load(text=CHILD + expected).digest() == plain.digest()
