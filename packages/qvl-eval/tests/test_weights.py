"""Weights for answers: any layout, a training checkpoint, an adapter on top, and what is wrong with them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from qvl_core.cli.app import main
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.recipe import load_recipe
from qvl_core.specs import load_spec
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.lora import merged_values, open_any_adapter
from qvl_core.weights.peft_writer import write_peft_folder
from qvl_core.weights.tensor_io import read_tensor, tensor_from_array
from qvl_core.weights.whole_tensors import open_whole_tensors
from qvl_eval.answers.model import weights_digest
from sharded_folders import write_sharded

WriteRecipe = Callable[..., Path]
CHECKPOINT = Path(__file__).resolve().parents[3] / "recipes" / "tiny" / "checkpoint"
SPEC = load_spec(CHECKPOINT)
SINGLE = Layout.single(SPEC)
CUT = Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3))
LORA = Lora(rank=4, alpha=16.0, dropout=0.0, components=("text", "vision"), targets=("q_proj", "o_proj", "qkv", "proj"))
TRAINING = """
[data]
sources = [{ path = "x.json", format = "llava", media_root = "." }]
sequence_length = 64
[train]
steps = 1
micro_batch = 1
global_batch = 1
[train.optimizer]
lr = 1e-5
"""
PICTURE = next(iter(sorted((CHECKPOINT.parent / "digits" / "images").glob("*.png"))))
needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="mindspore is not installed")
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="several processes need qvl-core[mpi]"
)


def side_files(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


def adapter_checkpoint(folder: Path, layout: Layout, source: Path, lora: Lora = LORA, revision: str = "x") -> Path:
    """Write what a training run with adapters saves, with factors that change answers."""
    random = np.random.default_rng(8)
    factors = {row.name: random.normal(0, 0.3, row.shape).astype(np.float32) for row in adapter_table(SPEC, lora)}
    side_files(source, folder)
    write_sharded(folder, SPEC, layout, factors, lora=lora, revision=revision)
    (folder / "state.json").write_text("{}")
    return folder


def merged_folder(folder: Path, source: Path, adapter: Path) -> Path:
    values = merged_values(open_whole_tensors(source), open_any_adapter(adapter, SPEC), SINGLE, 0, 0)
    write_hf_folder([tensor_from_array(*item) for item in values], source, folder)
    return folder


def answer(capsys: pytest.CaptureFixture[str], recipe: Path, *settings: str) -> tuple[str, str]:
    """Ask, and give the answer and what was said on the way."""
    words = [word for one in ("generation.max_new_tokens=8", *settings) for word in ("--set", one)]
    code = main(["infer", str(recipe), "--prompt", "Which?", "--image", str(PICTURE), *words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out, printed.err


def refusal(capsys: pytest.CaptureFixture[str], recipe: Path, *settings: str) -> str:
    words = [word for one in settings for word in ("--set", one)]
    assert main(["infer", str(recipe), "--prompt", "Which?", *words]) == 2
    return capsys.readouterr().err


@needs_mindspore
def test_a_training_checkpoint_of_another_layout_answers_like_its_hf_folder(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, step = write_recipe("infer"), side_files(weights, tmp_path / "step_000004")
    arrays = {name: read_tensor(entry) for name, entry in open_hf_folder(weights).tensors.items()}
    moments = {f"{name}.moment1": array for name, array in arrays.items()}
    write_sharded(step, SPEC, CUT, arrays, moments)
    (step / "state.json").write_text("{}")
    expected = answer(capsys, recipe)[0]
    found, said = answer(capsys, recipe, f"weights.source={step}")
    assert found == expected
    assert said.count("cut anew while loading for tp 1, pp 1") == 1
    assert main(["check", str(recipe), "--set", f"weights.source={step}"]) == 0, capsys.readouterr().out
    capsys.readouterr()
    # A recipe that trains, from random weights even, answers with them as well.
    sft = tmp_path / "sft.toml"
    text = recipe.read_text().replace('"infer"', '"sft"').replace("[weights]", '[weights]\ninit = "random"')
    sft.write_text(text.replace("[data.image]", f"{TRAINING}[data.image]"))
    assert answer(capsys, sft, f"weights.source={step}")[0] == expected


@needs_mindspore
@needs_mpi
@pytest.mark.parametrize("kind", ["peft", "checkpoint"])
def test_an_adapter_on_top_answers_like_the_merged_folder_in_one_process_and_in_several(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    recipe = write_recipe("infer")
    adapter = adapter_checkpoint(tmp_path / "step_000002", CUT, weights)
    if kind == "peft":
        write_peft_folder(open_whole_tensors(adapter), tmp_path / "adapter", base=str(weights))
        adapter = tmp_path / "adapter"
    merged = merged_folder(tmp_path / "merged", weights, adapter)
    expected = answer(capsys, recipe, f"weights.source={merged}")[0]
    assert answer(capsys, recipe)[0] != expected, "an adapter that changes something"
    use = f"weights.adapter={adapter}"
    found, said = answer(capsys, recipe, use)
    assert found == expected
    assert f"{adapter}: merged into the weights while loading" in said
    cut = ("layout.tp=2", "layout.pp=2", "layout.vision_stages=[4,0]", "layout.text_stages=[1,3]")
    assert answer(capsys, recipe, use, *cut)[0] == expected


def test_the_digest_of_answers_knows_the_adapter(write_recipe: WriteRecipe, weights: Path, tmp_path: Path) -> None:
    recipe = str(write_recipe("infer"))
    one = adapter_checkpoint(tmp_path / "one", SINGLE, weights)
    other = adapter_checkpoint(tmp_path / "other", SINGLE, weights, Lora(**{**LORA.__dict__, "alpha": 8.0}))
    chosen = ((), (f"weights.adapter={one}",), (f"weights.adapter={other}",))
    digests = [weights_digest(load_recipe(recipe, settings)) for settings in chosen]
    assert len(set(digests)) == 3
    assert digests[1] == weights_digest(load_recipe(recipe, chosen[1]))


@needs_mindspore
def test_answers_are_not_gone_on_with_under_another_adapter(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, output = write_recipe("infer"), tmp_path / "answers.jsonl"
    (tmp_path / "q.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    words = ["infer", str(recipe), "--input", str(tmp_path / "q.jsonl"), "--output", str(output)]
    assert main(words) == 0
    adapter = adapter_checkpoint(tmp_path / "step", SINGLE, weights)
    assert main([*words, "--set", f"weights.adapter={adapter}"]) == 2
    assert "settings" in capsys.readouterr().err


@needs_mindspore
def test_a_base_that_the_adapter_was_not_trained_on_is_told(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qvl_core.weights.fingerprint import fingerprint

    own = adapter_checkpoint(tmp_path / "own", SINGLE, weights, revision=fingerprint(open_hf_folder(weights)))
    assert "another base" not in answer(capsys, write_recipe("infer"), f"weights.adapter={own}")[1]
    others = [tensor_from_array(name, read_tensor(one) + 1) for name, one in open_hf_folder(weights).tensors.items()]
    write_hf_folder(others, weights, tmp_path / "others")
    settings = (f"weights.source={tmp_path}/others", f"weights.adapter={own}")
    assert "another base, or the same in another format" in answer(capsys, write_recipe("infer"), *settings)[1]


def test_adapters_as_the_model_are_refused_with_the_key_for_them(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = adapter_checkpoint(tmp_path / "step", CUT, weights)
    write_peft_folder(open_whole_tensors(step), tmp_path / "adapter", base="base")
    for folder in (step, tmp_path / "adapter"):
        text = refusal(capsys, write_recipe("infer"), f"weights.source={folder}")
        assert "holds adapters only" in text
        assert f'fix: weights.adapter = "{folder}"' in text


def test_adapters_of_another_model_and_folders_that_are_none_are_refused(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("infer")
    assert "a whole model" in refusal(capsys, recipe, f"weights.adapter={weights}")
    assert "weights.adapter" in refusal(capsys, recipe, f"weights.adapter={tmp_path}/none")
    folder = tmp_path / "peft"
    write_peft_folder(open_whole_tensors(adapter_checkpoint(tmp_path / "s", SINGLE, weights)), folder, base="base")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 5}))
    text = refusal(capsys, recipe, f"weights.adapter={folder}")
    assert "tensors have the wrong shape" in text
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj", "k_proj"]}))
    text = refusal(capsys, recipe, f"weights.adapter={folder}")
    assert "keys are missing" in text
    assert "have no place" in text
    assert main(["check", str(recipe), "--set", f"weights.adapter={folder}"]) == 2


def test_training_refuses_an_adapter_on_top(
    write_recipe: WriteRecipe, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft, adapter = tmp_path / "sft.toml", adapter_checkpoint(tmp_path / "step", SINGLE, weights)
    text = write_recipe("infer").read_text().replace('"infer"', '"sft"')
    sft.write_text(text.replace("[data.image]", f"{TRAINING}[data.image]"))
    for command in ("check", "run"):
        assert main([command, str(sft), "--set", f"weights.adapter={adapter}"]) == 2
        printed = capsys.readouterr()
        assert "--set weights.adapter: weights.adapter" in printed.out + printed.err
        assert "training starts from a whole model" in printed.out + printed.err
