"""A whole run in this process: repeatable, resumable to the bit, exported."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.errors import RunError
from qvl_core.model import Qwen25VL
from qvl_core.model.initialize import random_weights
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.recipe import load_recipe
from qvl_core.run_folder import read_record
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.tensor_io import read_tensor
from qvl_train import loop, validation
from qvl_train.metrics import read_metrics
from whole_runs import cut_checkpoint, losses, stop_after, train

Finished = Callable[..., None]
Snapshot = Callable[[], dict[str, bytes]]


def test_a_run_leaves_metrics_record_checkpoints_and_an_hf_folder(project: Path) -> None:
    assert train("data.validation.fraction=0.2", "train.log.validate_every=3", "train.log.tensorboard=true") == 0
    rows = read_metrics(project / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    validations = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validations] == [3, 6]
    assert rows[0]["samples"] == 4
    record = json.loads((project / "run" / "run.json").read_text())
    assert record["recipe"]["train"]["steps"] == 6
    assert record["versions"]["qvl-train"]
    assert record["hashes"]["data"]
    assert record["hashes"]["weights"].startswith("random:42:")
    assert record["result"]["loss_last"] < record["result"]["loss_first"]
    assert record["result"]["validation_loss_last"] == validations[1]["validation_loss"]
    times = sorted(row["step_time_s"] for row in rows if "loss" in row)
    assert times[2] <= record["result"]["step_time_s"] <= times[3]
    assert {path.name for path in (project / "run").iterdir() if not path.name.startswith(".")} == {
        *("run.json", "metrics.jsonl", "memory.json", "tensorboard", "hf"),
        *("step_000002", "step_000004", "step_000006"),
    }
    assert {path.name for path in (project / "run" / "hf").iterdir()} >= {
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"),
        *("preprocessor_config.json", "generation_config.json", "chat_template.jinja"),
    }


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(project: Path) -> None:
    train("train.steps=3")
    train("train.steps=3", "output.dir=again")
    train("train.steps=3", "output.dir=other", "train.seed=7")
    assert losses("again") == losses("run")
    assert losses("other") != losses("run")
    first = (project / "run" / "hf" / "model.safetensors").read_bytes()
    assert (project / "again" / "hf" / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_continues_to_the_bit(
    project: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, finished: Finished
) -> None:
    finished(into="straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 3, number)
        assert train() == 0
    assert (project / "run" / "step_000003").is_dir()
    assert not (project / "run" / "hf").exists()
    assert train() == 0
    assert losses() == losses("straight")
    straight = (project / "straight" / "hf" / "model.safetensors").read_bytes()
    assert (project / "run" / "hf" / "model.safetensors").read_bytes() == straight


def test_a_run_that_keeps_no_optimizer_state_goes_on_to_the_bit_after_a_signal(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("output.dir=straight", "train.save.optimizer=false")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train("train.save.optimizer=false") == 0
    held = {step: open_sharded_folder(Path(f"run/step_{step:06d}")).manifest.has_optimizer for step in (2, 3)}
    assert held == {2: False, 3: True}
    assert train("train.save.optimizer=false") == 0
    assert losses() == losses("straight")
    assert not open_sharded_folder(Path("run/step_000006")).manifest.has_optimizer


def test_a_validation_that_is_due_when_a_signal_comes_is_left_out(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(monkeypatch, 3)
    assert train("data.validation.fraction=0.2", "train.log.validate_every=3") == 0
    assert not [row for row in read_metrics(project / "run" / "metrics.jsonl") if "validation_loss" in row]
    assert "step 3: no validation loss, SIGTERM asked to stop" in capsys.readouterr().out
    assert (project / "run" / "step_000003").is_dir()


def test_a_signal_during_a_validation_stops_the_run_after_the_step_before_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = Pipeline.losses

    def interrupted(self: Pipeline, batch: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(Pipeline, "losses", losses)
        return losses(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "losses", interrupted)
    monkeypatch.setattr(validation, "ASK_EVERY", 1)
    settings = ("data.validation.fraction=0.2", "train.log.validate_every=3", "train.micro_batch=1")
    assert train(*settings) == 0
    rows = read_metrics(project / "run" / "metrics.jsonl")
    assert max(row["step"] for row in rows) == 3
    assert not [row for row in rows if "validation_loss" in row]
    out = capsys.readouterr().out
    assert "step 3: no validation loss, SIGTERM asked to stop" in out
    assert "stopped by SIGTERM after step 3" in out
    assert (project / "run" / "step_000003").is_dir()


def test_a_crash_between_checkpoints_repeats_the_lost_steps_to_the_bit(
    project: Path, monkeypatch: pytest.MonkeyPatch, finished: Finished
) -> None:
    finished(into="straight")
    take = loop.TrainStep.__call__

    def crash(self: loop.TrainStep, batches: object, *, lr: float, step: int) -> object:
        if step == 4:
            raise MemoryError
        return take(self, batches, lr=lr, step=step)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainStep, "__call__", crash)
        with pytest.raises(MemoryError):
            train()
    assert [row[0] for row in losses()] == [1, 2, 3]
    assert train() == 0
    assert losses() == losses("straight")


def test_a_requested_checkpoint_is_continued(project: Path, finished: Finished) -> None:
    finished(into="straight")
    finished()
    assert train(resume="run/step_000002") == 0
    assert losses() == losses("straight")
    record = read_record(project / "run")
    assert record is not None
    assert record.result is not None


def test_a_checkpoint_cut_for_another_layout_continues_to_the_bit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("output.dir=straight", 'model.freeze=["vision"]')
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train('model.freeze=["vision"]')
    found = project / "run" / "step_000003"
    found.rename(project / "single")
    cut_checkpoint(project / "single", found)
    assert train('model.freeze=["vision"]') == 0
    assert losses() == losses("straight")
    straight = (project / "straight" / "hf" / "model.safetensors").read_bytes()
    assert (project / "run" / "hf" / "model.safetensors").read_bytes() == straight


def test_weights_of_any_folder_and_layout_train_alike(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
    cut_checkpoint(project / "run" / "step_000002", project / "cut")
    (project / "cut" / "state.json").unlink()
    use = ("train.steps=2", "weights.init=checkpoint")
    train(*use, "weights.source=run/hf", "output.dir=from_hf")
    train(*use, "weights.source=run/step_000002", "output.dir=from_checkpoint")
    train(*use, "weights.source=cut", "output.dir=from_cut", reshard=True)
    assert losses("from_hf") == losses("from_checkpoint") == losses("from_cut") != losses("run")
    assert (project / "from_cut" / "hf" / "config.json").is_file()


def test_a_finished_run_is_left_alone(project: Path, snapshot: Snapshot, finished: Finished) -> None:
    finished("train.steps=2")
    before = snapshot()
    assert train("train.steps=2") == 0
    assert snapshot() == before


def test_the_export_gives_the_logits_of_the_trained_weights(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
    ids = np.array([[1, 2, 3, 4, 5]])
    exported = Qwen25VL.from_pretrained("run/hf")
    entries = open_hf_folder("run/hf").tensors
    rebuilt = Qwen25VL.from_spec(exported.spec, ((name, read_tensor(entry)) for name, entry in entries.items()))
    assert (exported(ids).asnumpy() == rebuilt(ids).asnumpy()).all()
    random = Qwen25VL.from_spec(exported.spec, random_weights(exported.spec, 42))
    assert (exported(ids).asnumpy() != random(ids).asnumpy()).any()


def test_frozen_components_stay_as_they_are_and_the_others_move(project: Path) -> None:
    train("train.steps=2", 'model.freeze=["vision"]')
    initial = dict(random_weights(load_recipe("recipe.toml").spec, 42))
    for name, entry in open_hf_folder("run/hf").tensors.items():
        frozen = name.startswith("visual.") and not name.startswith("visual.merger.")
        assert (read_tensor(entry) == initial[name]).all() == frozen, name


def test_epochs_are_counted_in_whole_global_batches(project: Path) -> None:
    text = Path("recipe.toml").read_text().replace("steps = 6", "epochs = 1")
    Path("recipe.toml").write_text(text)
    train("train.global_batch=10", "train.micro_batch=5", "output.dir=run")
    assert [row[0] for row in losses()] == [1, 2]


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_the_loss_does_not_depend_on_micro_batches_unless_asked(project: Path, reduction: str) -> None:
    train("train.steps=2", f"train.loss_reduction={reduction}", "output.dir=two")
    train("train.steps=2", f"train.loss_reduction={reduction}", "output.dir=four", "train.micro_batch=4")
    two = [float.fromhex(row[1]) for row in losses("two")]
    four = [float.fromhex(row[1]) for row in losses("four")]
    # fp32 sums in another order: 1e-5 of losses of about 6. Digits all have one label token and one end token, so
    # that micro_batch agrees too.
    assert two == pytest.approx(four, rel=1e-5)


def test_a_nan_stops_the_run_with_the_samples_named_and_saves_nothing(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
    file = project / "run" / "hf" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    with pytest.raises(RunError, match="of step 1 is nan") as error:
        train("weights.source=run/hf", "weights.init=checkpoint", "output.dir=next")
    assert "train.json:" in str(error.value)
    assert not list((project / "next").glob("step_*"))


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run_too(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
    file = project / "run" / "hf" / "model.safetensors"
    start = open_hf_folder("run/hf").tensors["model.norm.weight"].start
    content = bytearray(file.read_bytes())
    # Logits of 1e25 still have a finite loss; the squares of their gradients do not fit into fp32.
    content[start : start + 4] = np.float32(1e25).tobytes()
    file.write_bytes(content)
    with pytest.raises(RunError, match="the gradient norm of step 1 is inf") as error:
        train("weights.source=run/hf", "weights.init=checkpoint", "output.dir=next")
    assert str(error.value).count("train.json:") == 4
    assert not list((project / "next").glob("step_*"))


def test_a_finished_record_can_be_read_back(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
    record = read_record(project / "run")
    assert record is not None
    assert record.result is not None
    assert record.result["hf"] == "run/hf"
