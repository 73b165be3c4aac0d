"""Checkpoints are complete or not there, come back to the bit, and say what is wrong with a damaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qvl_core.errors import InputError, RunError, WeightsError
from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, load_spec
from qvl_core.specs.load import shipped_config_path
from qvl_core.weights.safetensors_header import read_header
from qvl_train import checkpoint, commit
from qvl_train.checkpoint import TrainingState
from qvl_train.resume import choose_checkpoint
from qvl_train.save import Contents, save_checkpoint
from qvl_train.stored_tensor import StoredTensor
from sharded_folders import write_sharded
from thread_worlds import run_ranks

TINY = "qwen2.5-vl-tiny"
FIRST = Coordinate(pp=0, dp=0, tp=0)


def newest(run: Path) -> tuple[Any, list[str]]:
    """Give the checkpoint that a run in one process goes on from, and what it says about newer ones."""
    said: list[str] = []
    (found,) = run_ranks(
        Layout.single(load_spec(TINY)), lambda world: choose_checkpoint(world, run, "auto", said.append)
    )
    if isinstance(found, Exception):
        raise found
    return found, said


def stored(arrays: dict[str, NDArray[Any]]) -> list[StoredTensor]:
    return [
        StoredTensor(name=name, dtype="F32", shape=array.shape, read=lambda array=array: array)  # type: ignore[misc]
        for name, array in arrays.items()
    ]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_spec(TINY)


@pytest.fixture(scope="module")
def weights(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    return {row.name: generator.standard_normal(row.shape, np.float32) for row in parameter_table(spec)}


@pytest.fixture
def side_files(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copy(shipped_config_path(TINY), folder / "config.json")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def save(tmp_path: Path, spec: ModelSpec, weights: dict[str, NDArray[Any]], side_files: Path) -> Any:
    def run(step: int, *, optimizer: bool = True) -> Path:
        moments = {f"{name}.moment1": array * step for name, array in weights.items()}
        contents = Contents(weights=stored(weights), optimizer=stored(moments) if optimizer else None)
        state = TrainingState(step=step, consumed_samples=4 * step, run_id="r", has_optimizer=optimizer)
        (path,) = run_ranks(
            Layout.single(spec),
            lambda world: save_checkpoint(
                world,
                tmp_path / "run",
                state,
                contents,
                spec=spec,
                side_files=side_files,
                source_revision="test",
            ),
        )
        if isinstance(path, Exception):
            raise path
        return path

    return run


def test_weights_and_state_come_back_to_the_bit(save: Any, spec: ModelSpec, weights: dict[str, NDArray[Any]]) -> None:
    opened = checkpoint.open_checkpoint(save(7))
    assert opened.state == TrainingState(step=7, consumed_samples=28, run_id="r", has_optimizer=True)
    read = dict(checkpoint.read_weights(opened, Layout.single(spec), FIRST))
    assert read.keys() == weights.keys()
    assert all(read[name].tobytes() == array.tobytes() for name, array in weights.items())
    shapes = {f"{name}.moment1": array.shape for name, array in weights.items()}
    moments = dict(checkpoint.read_optimizer(opened, Layout.single(spec), FIRST, shapes))
    assert all((moments[f"{name}.moment1"] == array * 7).all() for name, array in weights.items())


def test_the_folder_holds_what_a_checkpoint_of_the_family_needs(save: Any) -> None:
    assert {path.name for path in save(1).iterdir()} == {
        "manifest.json",
        "state.json",
        "rank-pp000-tt000.safetensors",
        "optimizer-pp000-tt000.safetensors",
        "config.json",
        "tokenizer.json",
    }


def test_newest_is_by_step_and_the_oldest_are_pruned(save: Any, tmp_path: Path) -> None:
    for step in (100, 20, 1000):
        save(step)
    run = tmp_path / "run"
    assert [path.name for path in checkpoint.prune(run, 2)] == ["step_000020"]
    found, passed_over = newest(run)
    assert found is not None
    assert found.state.step == 1000
    assert passed_over == []


def test_a_flipped_byte_is_found_with_the_tensors_name_and_the_older_checkpoint_is_taken(
    save: Any, tmp_path: Path
) -> None:
    save(1)
    file = save(2) / "rank-pp000-tt000.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        checkpoint.open_checkpoint(file.parent)
    assert error.value.problems[0].key in {row.name for row in parameter_table(load_spec(TINY))}
    found, passed_over = newest(tmp_path / "run")
    assert found is not None
    assert found.state.step == 1
    assert len(passed_over) == 1
    assert "damaged" in passed_over[0]


def test_a_flipped_byte_of_the_optimizer_is_found_with_the_tensors_name(save: Any) -> None:
    file = save(3) / "optimizer-pp000-tt000.safetensors"
    content = bytearray(file.read_bytes())
    content[read_header(file).tensors["model.layers.1.mlp.up_proj.weight.moment1"].stop - 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        checkpoint.open_checkpoint(file.parent)
    (problem,) = error.value.problems
    assert (problem.where, problem.key) == (str(file), "model.layers.1.mlp.up_proj.weight.moment1")


def test_a_flipped_byte_of_the_state_is_found_too(save: Any) -> None:
    file = save(3) / "state.json"
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"state\.json"):
        checkpoint.open_checkpoint(file.parent)


def test_the_manifest_lists_the_optimizer_with_a_checksum_for_each_tensor(save: Any) -> None:
    manifest = json.loads((save(1) / "manifest.json").read_text())
    assert manifest["files"]["optimizer-pp000-tt000.safetensors"]["checksum"] is None
    assert manifest["files"]["state.json"]["checksum"].startswith("sha256:")
    record = manifest["optimizer"]["model.norm.weight.moment1"]
    assert (record["shape"], record["dtype"]) == ([64], "F32")
    assert list(record["parts"]) == ["optimizer-pp000-tt000.safetensors"]
    assert "optimizer" not in json.loads((save(2, optimizer=False) / "manifest.json").read_text())


@pytest.mark.parametrize("listed", [True, False])
def test_optimizer_files_and_their_table_have_to_come_together(save: Any, listed: bool) -> None:
    path = save(1)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["optimizer"]
    if not listed:
        del manifest["files"]["optimizer-pp000-tt000.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError) as error:
        checkpoint.open_checkpoint(path)
    told = (
        "optimizer\n  is missing, but optimizer-pp000-tt000.safetensors is listed" if listed else "lists no optimizer"
    )
    assert told in str(error.value)


def test_a_checkpoint_of_another_layout_reads_back_whole(
    save: Any, spec: ModelSpec, weights: dict[str, NDArray[Any]]
) -> None:
    path = save(2)
    # Every fourth tensor has state, as if the others were frozen.
    state = {f"{name}.moment2": -array for i, (name, array) in enumerate(weights.items()) if i % 4 == 0}
    for name in ("rank-pp000-tt000.safetensors", "optimizer-pp000-tt000.safetensors", "manifest.json"):
        (path / name).unlink()
    write_sharded(path, spec, Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3)), weights, state)
    opened = checkpoint.open_checkpoint(path)
    single = Layout.single(spec)
    assert all(a.tobytes() == weights[name].tobytes() for name, a in checkpoint.read_weights(opened, single, FIRST))
    shapes = {name: array.shape for name, array in state.items()}
    read = dict(checkpoint.read_optimizer(opened, single, FIRST, shapes))
    assert {name: array.tobytes() for name, array in read.items()} == {n: a.tobytes() for n, a in state.items()}


def test_a_damaged_file_of_any_rank_is_found(save: Any, spec: ModelSpec, weights: dict[str, NDArray[Any]]) -> None:
    path = save(2)
    for name in ("rank-pp000-tt000.safetensors", "optimizer-pp000-tt000.safetensors", "manifest.json"):
        (path / name).unlink()
    layout = Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3))
    write_sharded(path, spec, layout, weights, {f"{name}.moment1": array for name, array in weights.items()})
    files = sorted([*path.glob("rank-*"), *path.glob("optimizer-*")])
    assert len(files) == 8
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(WeightsError, match="is damaged") as error:
            checkpoint.open_checkpoint(path)
        assert [problem.where for problem in error.value.problems] == [str(file)]
        file.write_bytes(content)
    checkpoint.open_checkpoint(path)


@pytest.mark.parametrize("name", ["rank-pp000-tt000.safetensors", "optimizer-pp000-tt000.safetensors"])
def test_a_truncated_or_missing_file_is_refused(save: Any, name: str) -> None:
    file = save(3) / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=name):
        checkpoint.open_checkpoint(file.parent)
    file.unlink()
    with pytest.raises(WeightsError, match=name):
        checkpoint.open_checkpoint(file.parent)


def test_a_folder_without_its_manifest_is_no_checkpoint(save: Any, tmp_path: Path) -> None:
    (save(1) / "manifest.json").unlink()
    with pytest.raises(RunError, match="none of its 1 checkpoints can be used"):
        newest(tmp_path / "run")
    with pytest.raises(InputError, match="manifest"):
        checkpoint.check_requested(tmp_path / "run", tmp_path / "run" / "step_000001")


def test_optimizer_state_of_another_shape_is_refused_by_name(
    save: Any, spec: ModelSpec, weights: dict[str, NDArray[Any]]
) -> None:
    opened = checkpoint.open_checkpoint(save(1))
    shapes = {f"{name}.moment1": array.shape for name, array in weights.items()}
    changed = {**shapes, "model.norm.weight.moment1": (3,)}
    with pytest.raises(WeightsError, match=r"model.norm.weight.moment1 has shape \(64,\), this run needs \(3,\)"):
        list(checkpoint.read_optimizer(opened, Layout.single(spec), FIRST, changed))


def test_a_checkpoint_without_optimizer_cannot_be_continued_and_says_how_to_use_it(save: Any) -> None:
    with pytest.raises(WeightsError, match="weights only") as error:
        checkpoint.open_checkpoint(save(1, optimizer=False))
    assert "--set weights.source=" in error.value.problems[0].fix


def test_a_checkpoint_of_another_run_is_not_resumed(save: Any, tmp_path: Path) -> None:
    path = save(1)
    with pytest.raises(InputError, match="outside this run"):
        checkpoint.check_requested(tmp_path / "other", path)
    checkpoint.check_requested(tmp_path / "run", path)


def test_a_state_of_a_newer_version_is_refused(save: Any) -> None:
    path = save(1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(WeightsError, match="format 99"):
        checkpoint._read_state(path)


def test_a_failing_save_leaves_nothing_behind(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(1)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit, "write_manifest", fail)
    with pytest.raises(Exception, match="No space left"):
        save(2)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_000001"]


def test_saving_a_step_again_replaces_it(save: Any) -> None:
    first = save(5)
    (first / "extra").write_text("left by the first try")
    assert not (save(5) / "extra").exists()
