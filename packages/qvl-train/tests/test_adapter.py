"""A run that trains adapters: what it writes, that it goes on to the bit, and that it stays with its base."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

import mindspore as ms
import whole_runs
from qvl_core.errors import OutputError, WeightsError
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.model import Qwen25VL
from qvl_core.model.initialize import random_weights
from qvl_core.recipe import load_recipe
from qvl_core.run_folder import read_record
from qvl_core.tasks import RunOptions
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.tensor_io import read_tensor, tensor_from_array
from qvl_train import task
from qvl_train.gradients import CopySums, is_counted
from sharded_folders import divisible_spec, write_sharded
from thread_worlds import run_ranks
from whole_runs import CUT, losses, stop_after

LORA = (
    *("weights.source=base", "weights.init=checkpoint", "train.lora.rank=3", "train.lora.dropout=0.2"),
    # Six steps of few numbers: they have to go far for the loss to tell.
    "train.optimizer.lr=1e-2",
    "train.lora.components=['text','vision']",
    "train.lora.targets=['q_proj','o_proj','gate_proj','down_proj','qkv','proj']",
)


train = partial(whole_runs.train, *LORA)


@pytest.fixture
def base(project: Path) -> Path:
    """Give an HF folder of random weights."""
    spec = load_recipe("recipe.toml").spec
    write_hf_folder([tensor_from_array(*item) for item in random_weights(spec, 1)], Path("checkpoint"), Path("base"))
    return project / "base"


@pytest.mark.usefixtures("base")
def test_a_run_saves_adapters_only_and_leaves_a_peft_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    recipe = load_recipe("recipe.toml", LORA)
    assert recipe.lora is not None
    folder = open_sharded_folder("run/step_000006")
    names = [row.name for row in adapter_table(recipe.spec, recipe.lora)]
    assert folder.manifest.lora == recipe.lora
    assert list(folder.manifest.tensors) == names
    assert set(folder.manifest.optimizer) == {f"{name}.{kind}" for name in names for kind in ("moment1", "moment2")}
    record = read_record(Path("run"))
    assert record is not None
    assert record.result is not None
    assert record.result["adapter"] == "run/adapter"
    assert record.result["loss_last"] < record.result["loss_first"]
    assert folder.manifest.source_revision == record.hashes["weights"]
    assert not Path("run/hf").exists()
    config = json.loads(Path("run/adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 16, "base")
    saved = read_header(Path("run/adapter/adapter_model.safetensors")).tensors
    trained = folder.ranks[0, 0]
    assert len(saved) == len(names)
    for name, entry in trained.items():
        new = name.replace("visual.", "model.visual.", 1).replace("model.layers", "model.language_model.layers", 1)
        assert (read_tensor(saved[f"base_model.model.{new}"]) == read_tensor(entry)).all()
        assert np.abs(read_tensor(entry)).max() > 0
    assert "qvl convert merge --base base --adapter run/adapter --out run/hf" in capsys.readouterr().out


@pytest.mark.usefixtures("base")
def test_a_stopped_run_goes_on_to_the_bit_dropout_included(monkeypatch: pytest.MonkeyPatch) -> None:
    train("output.dir=straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train() == 0
    assert Path("run/step_000003").is_dir()
    assert not Path("run/adapter").exists()
    assert train() == 0
    assert losses() == losses("straight")
    file = "adapter/adapter_model.safetensors"
    assert Path("run", file).read_bytes() == Path("straight", file).read_bytes()


@pytest.mark.usefixtures("base")
def test_a_checkpoint_cut_for_another_layout_continues_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    train("output.dir=straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train()
    found = Path("run/step_000003")
    found.rename("single")
    single = open_sharded_folder("single")
    found.mkdir()
    for path in Path("single").iterdir():
        if not path.name.startswith(("rank-", "optimizer-", "manifest")):
            shutil.copy(path, found)
    arrays, state = (
        {name: read_tensor(entry) for name, entry in entries[0, 0].items()}
        for entries in (single.ranks, single.optimizer)
    )
    manifest = single.manifest
    write_sharded(found, manifest.spec, CUT, arrays, state, lora=manifest.lora, revision=manifest.source_revision)
    assert train() == 0
    assert losses() == losses("straight")


@pytest.mark.usefixtures("base")
def test_a_run_stays_with_its_base_and_its_settings() -> None:
    train("train.steps=2")
    spec = load_recipe("recipe.toml").spec
    write_hf_folder([tensor_from_array(*item) for item in random_weights(spec, 2)], Path("checkpoint"), Path("other"))
    with pytest.raises(OutputError, match="weights"):
        train("train.steps=2", "weights.source=other")
    with pytest.raises(OutputError, match=r"train\.lora\.rank"):
        train("train.steps=2", "train.lora.rank=4")


@pytest.mark.usefixtures("base")
def test_a_checkpoint_of_another_base_or_with_other_adapters_is_not_continued() -> None:
    train("train.steps=2", "train.save.every=1")
    shutil.rmtree("run/step_000002")
    checkpoint = Path("run/step_000001/manifest.json")
    before = json.loads(checkpoint.read_text())
    checkpoint.write_text(json.dumps({**before, "source_revision": "sampled-sha256:0123"}))
    with pytest.raises(WeightsError, match="adapters of the base sampled-sha256:0123"):
        train("train.steps=2", resume="run/step_000001")
    checkpoint.write_text(json.dumps({**before, "lora": {**before["lora"], "dropout": 0.5}}))
    with pytest.raises(WeightsError, match=r"dropout 0\.5 on .*; this run trains adapters of .* dropout 0\.2"):
        train("train.steps=2", resume="run/step_000001")
    checkpoint.write_text(json.dumps(before))
    assert train("train.steps=2", resume="run/step_000001") == 0


@pytest.mark.usefixtures("base")
def test_adapters_are_not_taken_for_a_model() -> None:
    train("train.steps=2")
    with pytest.raises(WeightsError, match="holds adapters only") as error:
        train("train.steps=2", "weights.source=run/step_000002", "output.dir=next")
    assert "qvl convert merge --base" in str(error.value)


@pytest.mark.usefixtures("base")
def test_the_vision_rate_scales_its_adapters_only() -> None:
    settings = ("train.steps=1", "train.schedule.warmup=0.0", "train.lora.dropout=0.0")
    train(*settings)
    train(*settings, "train.optimizer.lr_scale.vision=0.5", "output.dir=half")
    whole, half = (open_sharded_folder(f"{run}/step_000001").ranks[0, 0] for run in ("run", "half"))
    for name in whole:
        if name.endswith("lora_B.weight"):
            factor = 0.5 if name.startswith("visual.") else 1.0
            # B began as zero, so that it is the update.
            np.testing.assert_allclose(read_tensor(half[name]), factor * read_tensor(whole[name]), rtol=1e-6)


def test_adapters_of_random_weights_say_that_nothing_can_merge_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("recipe.toml", ("train.lora.rank=2", "train.steps=1"))
    assert task.run(recipe, RunOptions(resume="auto", reshard=False)) == 0
    assert (project / "run" / "adapter" / "adapter_config.json").is_file()
    assert "there is no merging it" in capsys.readouterr().out


def test_summands_of_a_factors_gradient_are_added_and_copies_of_a_norms_are_not() -> None:
    spec = divisible_spec(tied=False)
    layout = Layout(tp=2, vision_stages=(2,), text_stages=(3,))
    lora = Lora(rank=2, alpha=2.0, dropout=0.0, components=("text",), targets=("q_proj",))
    row_a, row_b = adapter_table(spec, lora, layout)[:2]
    norm = next(row for row in Qwen25VL(spec).table if row.name == "model.norm.weight")

    def work(world: Any) -> Any:
        value = float(1 + world.place.tp)
        arrays = [np.full(row.local_shape(2), value, np.float32) for row in (row_a, row_b, norm)]
        found = CopySums(world, [row_a, row_b, norm])([ms.Tensor(array) for array in arrays])
        counted = [is_counted(row, world) for row in (row_a, row_b, norm)]
        return [float(one.asnumpy().max()) for one in found], counted

    first, second = run_ranks(layout, work, spec=spec)
    # A is whole on both ranks and each has a summand; B is cut; the norm is the same on both.
    assert first == ([3.0, 1.0, 1.0], [True, True, True])
    assert second == ([3.0, 2.0, 1.0], [False, True, False])
