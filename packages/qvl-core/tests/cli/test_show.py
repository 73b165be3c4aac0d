"""`qvl show`: values with their origin, stages, arithmetic, the parameter table."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.cli.arithmetic import training_lines
from qvl_core.cli.resolved_values import leaves, toml_text, value_rows
from qvl_core.cli.terminal import bytes_text, layers_text
from qvl_core.params import parameter_table
from qvl_core.recipe import load_recipe


def test_every_value_has_its_origin(folder: Path) -> None:
    base = (folder / "tiny.toml").read_text()
    (folder / "more.toml").write_text('schema = 1\nextends = "tiny.toml"\ntask = "sft"\n[layout]\ntp = 1\n')
    assert "extends" not in base
    recipe = load_recipe("more.toml", ["train.steps=7"])
    rows = {key: (value, origin) for key, value, origin in value_rows(recipe)}
    line = base.splitlines().index("global_batch = 8") + 1
    assert rows["layout.tp"] == ("1", "recipe:5")
    assert rows["train.global_batch"] == ("8", f"extends:{line}")
    assert rows["train.steps"] == ("7", "--set")
    assert rows["train.save.keep"] == ("3", "default")
    assert rows["layout.text_stages"] == ("[4]", "derived")
    assert rows["model.dtype"] == ('"float32"', "derived")
    assert rows["data.sources[0].path"][0] == '"data.json"'


def test_rows_are_exactly_the_resolved_recipe(folder: Path) -> None:
    recipe = load_recipe("72b.toml")
    assert [key for key, _, _ in value_rows(recipe)] == [key for key, _ in leaves(recipe.resolved())]


def test_piped_output_is_whole(qvl, folder: Path) -> None:
    long = "runs/" + "a_long_name_" * 20
    result = qvl("show", "tiny.toml", "--set", f"output.dir={long}")
    assert result.code == 0
    assert f'"{long}"' in result.out
    assert "…" not in result.out


def test_stages_and_their_bytes_are_shown(qvl, folder: Path) -> None:
    out = qvl("show", "72b.toml").out
    assert "tp 8 x pp 4 x dp 2 = 64 processes on ascend" in out
    assert "73,410,777,344 parameters" in out
    assert "0-31 (32)" in out
    assert "norm, head" in out


def test_params_prints_the_whole_table(qvl, folder: Path) -> None:
    recipe = load_recipe("tiny.toml")
    out = qvl("show", "tiny.toml", "--params").out
    names = [
        line.split()[0] for line in out.splitlines() if line.startswith(("visual.", "model.layers", "model.embed"))
    ]
    assert [name for name in names if not name.endswith("norm")] == [
        parameter.name for parameter in parameter_table(recipe.spec) if parameter.name != "model.norm.weight"
    ]
    assert "model.norm.weight" in out
    assert "visual." not in qvl("show", "tiny.toml").out


def test_a_wrong_recipe_ends_with_2(qvl, folder: Path) -> None:
    result = qvl("show", "tiny.toml", "--set", "train.steps=0")
    assert (result.code, result.out) == (2, "")


def test_batches_multiply_out_and_a_crash_has_a_price(folder: Path) -> None:
    text = "\n".join(" ".join(line) for line in training_lines(load_recipe("72b.toml")))
    assert "192 samples = 2 replicas x 96 micro batches x 1 sample" in text
    assert "10,000 steps, 1,920,000 samples" in text
    assert "at most 500 steps, 250 on average\n and the steps taken while a checkpoint is being written" in text
    inline = training_lines(load_recipe("72b.toml", ["train.save.background=false"]))
    assert not any("being written" in line for _, line in inline)


def test_a_checkpoint_of_adapters_holds_nothing_else(folder: Path) -> None:
    recipe = load_recipe("tiny.toml", ["train.lora.rank=4", "weights.init=checkpoint"])
    lines = " ".join(text for _, text in training_lines(recipe))
    text = recipe.spec.text
    q_width, kv_width = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    # q, k, v, o: rank times inputs plus outputs, fp32, and two moments of each.
    each = 2 * (text.hidden_size + q_width) + 2 * (text.hidden_size + kv_width)
    count = 4 * text.num_layers * each
    assert f"{bytes_text(4 * count)} adapters + {bytes_text(8 * count)} optimizer" in lines


def test_a_run_shorter_than_its_save_interval_loses_no_more_than_itself(folder: Path) -> None:
    text = "\n".join(" ".join(line) for line in training_lines(load_recipe("tiny.toml")))
    assert "at most 20 steps, 10 on average" in text
    assert "being written" not in text, "a small checkpoint is waited for"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), ('a"b', '"a\\"b"'), (1e-5, "1e-05"), ([1, [True]], "[1, [true]]"), (3, "3")],
)
def test_values_are_written_as_toml(value: object, text: str) -> None:
    assert toml_text(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1024, "1.00 KiB"), (16_584_333_312, "15.4 GiB"), (5 * 1024**4, "5.00 TiB")],
)
def test_bytes_are_written_in_binary_units(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_layers_are_counted_from_0_inclusively() -> None:
    assert [layers_text(layers) for layers in ((0, 12), (4, 5), (3, 3))] == ["0-11 (12)", "4 (1)", "-"]
