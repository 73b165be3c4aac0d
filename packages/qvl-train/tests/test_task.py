"""A whole run in this process: repeatable, resumable to the bit, exported, and refused before it writes anything."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.errors import InputError, OutputError, RunError, WeightsError
from qvl_core.layout import Layout
from qvl_core.model import Qwen25VL
from qvl_core.model.initialize import random_weights
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.recipe import load_recipe
from qvl_core.run_folder import read_record
from qvl_core.tasks import RunOptions
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.tensor_io import read_tensor
from qvl_train import loop, task, validation
from qvl_train.metrics import read_metrics
from sharded_folders import write_sharded

Snapshot = Callable[[], dict[str, bytes]]


CUT = Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3))


def train(*settings: str, resume: str = "auto", reshard: bool = False) -> int:
    return task.run(load_recipe("recipe.toml", settings), RunOptions(resume=resume, reshard=reshard))


def cut_checkpoint(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint of one process once more, cut for four."""
    folder = open_sharded_folder(checkpoint)
    target.mkdir()
    for path in checkpoint.iterdir():
        if not path.name.startswith(("rank-", "optimizer-", "manifest")):
            shutil.copy(path, target)
    arrays = {name: read_tensor(entry) for name, entry in folder.ranks[0, 0].items()}
    state = {name: read_tensor(entry) for name, entry in folder.optimizer[0, 0].items()}
    write_sharded(target, folder.manifest.spec, CUT, arrays, state)


def losses(folder: str = "run") -> list[tuple[int, str, str]]:
    """Give step, loss and gradient norm of every row, floats as exact hexadecimal text."""
    rows = [row for row in read_metrics(Path(folder) / "metrics.jsonl") if "loss" in row]
    return [(row["step"], row["loss"].hex(), row["gradient_norm"].hex()) for row in rows]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Raise a signal in the middle of the step after `step`, as a scheduler or Ctrl-C would."""
    take = loop.TrainStep.__call__

    def call(self: loop.TrainStep, batches: object, *, lr: float, step: int) -> object:
        if step == stop_at:
            signal.raise_signal(number)
        return take(self, batches, lr=lr, step=step)  # type: ignore[arg-type]

    stop_at = step
    monkeypatch.setattr(loop.TrainStep, "__call__", call)


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
    project: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    train("output.dir=straight")
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
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("output.dir=straight")
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


def test_a_requested_checkpoint_is_continued(project: Path) -> None:
    train("output.dir=straight")
    train()
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


def test_weights_of_any_folder_and_layout_train_alike(project: Path) -> None:
    train("train.steps=2")
    cut_checkpoint(project / "run" / "step_000002", project / "cut")
    (project / "cut" / "state.json").unlink()
    use = ("train.steps=2", "weights.init=checkpoint")
    train(*use, "weights.source=run/hf", "output.dir=from_hf")
    train(*use, "weights.source=run/step_000002", "output.dir=from_checkpoint")
    train(*use, "weights.source=cut", "output.dir=from_cut", reshard=True)
    assert losses("from_hf") == losses("from_checkpoint") == losses("from_cut") != losses("run")
    assert (project / "from_cut" / "hf" / "config.json").is_file()


def test_a_finished_run_is_left_alone(project: Path, snapshot: Snapshot) -> None:
    train("train.steps=2")
    before = snapshot()
    assert train("train.steps=2") == 0
    assert snapshot() == before


def test_the_export_gives_the_logits_of_the_trained_weights(project: Path) -> None:
    train("train.steps=2")
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


def test_a_nan_stops_the_run_with_the_samples_named_and_saves_nothing(project: Path) -> None:
    train("train.steps=2")
    file = project / "run" / "hf" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    with pytest.raises(RunError, match="of step 1 is nan") as error:
        train("weights.source=run/hf", "weights.init=checkpoint", "output.dir=next")
    assert "train.json:" in str(error.value)
    assert not list((project / "next").glob("step_*"))


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run_too(project: Path) -> None:
    train("train.steps=2")
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


# Bad input: refused, and nothing written.


def refuse(snapshot: Snapshot, kind: type[InputError], *settings: str, resume: str = "auto") -> str:
    """Run, expect the error, and check that no file was made, changed or removed."""
    before = snapshot()
    with pytest.raises(kind) as error:
        train(*settings, resume=resume)
    assert snapshot() == before
    return str(error.value)


def test_refuses_the_folder_of_another_run_and_lists_the_differences(project: Path, snapshot: Snapshot) -> None:
    train("train.steps=2")
    text = refuse(snapshot, OutputError, "train.steps=3", "train.seed=1")
    assert "train.seed: here 1, there 42" in text
    assert "train.steps: here 3, there 2" in text
    assert "--set output.dir=" in text


def test_settings_that_change_no_number_may_differ(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train()
    assert train("train.save.every=1", "train.log.every=2") == 0


def test_refuses_to_continue_with_changed_data(
    project: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train()
    records = json.loads(Path("train.json").read_text())
    Path("train.json").write_text(json.dumps(records[:-1]))
    assert "data hash" in refuse(snapshot, OutputError)


def test_refuses_a_folder_with_strangers_files(project: Path, snapshot: Snapshot) -> None:
    (project / "run").mkdir()
    (project / "run" / "thesis.docx").write_text("mine")
    assert "thesis.docx" in refuse(snapshot, OutputError)


def test_refuses_an_output_folder_that_is_a_file_or_lies_below_one(project: Path, snapshot: Snapshot) -> None:
    (project / "file").write_text("")
    assert "output.dir" in refuse(snapshot, OutputError, "output.dir=file")
    assert "output.dir" in refuse(snapshot, OutputError, "output.dir=file/below")


def test_never_refuses_to_continue(project: Path, snapshot: Snapshot) -> None:
    train("train.steps=2")
    assert "--resume never" in refuse(snapshot, OutputError, "train.steps=2", resume="never")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda p: p.unlink(), "there is no such file"),
        (lambda p: p.write_bytes(p.read_bytes()[:60]), "images/"),
        (lambda p: p.write_text("not a picture"), "images/"),
    ],
    ids=["missing", "truncated", "text"],
)
def test_refuses_damaged_images(
    project: Path, snapshot: Snapshot, damage: Callable[[Path], object], named: str
) -> None:
    damage(sorted((project / "images").iterdir())[5])
    text = refuse(snapshot, InputError)
    assert named in text
    assert "train.json:" in text


def test_refuses_a_broken_record(project: Path, snapshot: Snapshot) -> None:
    records = json.loads(Path("train.json").read_text())
    records[3]["conversations"][0]["value"] = "no marker at all"
    Path("train.json").write_text(json.dumps(records))
    assert "train.json" in refuse(snapshot, InputError)


def test_refuses_weights_that_are_missing_empty_truncated_or_misshapen(project: Path, snapshot: Snapshot) -> None:
    train("train.steps=2")
    use = ("weights.init=checkpoint", "output.dir=next")
    refuse(snapshot, WeightsError, "weights.source=nowhere", *use)
    (project / "empty").mkdir()
    assert "empty" in refuse(snapshot, WeightsError, "weights.source=empty", *use)
    assert "model.safetensors" in refuse(snapshot, WeightsError, "weights.source=checkpoint", *use)
    file = project / "run" / "hf" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "model.safetensors" in refuse(snapshot, WeightsError, "weights.source=run/hf", *use)
    file.write_bytes(whole.replace(b'"model.norm.weight"', b'"model.nerm.weight"'))
    assert "model.nerm.weight" in refuse(snapshot, WeightsError, "weights.source=run/hf", *use)


def test_refuses_another_layout_with_the_command_that_mends_it(project: Path, snapshot: Snapshot) -> None:
    train("train.steps=2")
    cut_checkpoint(project / "run" / "step_000002", project / "cut")
    use = ("weights.init=checkpoint", "output.dir=next", "weights.source=cut")
    text = refuse(snapshot, WeightsError, *use)
    assert "qvl convert reshard --sharded cut --out cut-tp1-pp1 --tp 1 --pp 1" in text
    assert "or qvl run recipe.toml --reshard" in text
    (project / "cut" / "config.json").unlink()
    assert "cut has no config.json" in refuse(snapshot, WeightsError, *use)


def test_a_flipped_bit_of_the_weights_ends_the_start_with_the_tensors_name(project: Path) -> None:
    train("train.steps=2")
    file = project / "run" / "step_000002" / "rank-pp000-tt000.safetensors"
    content = bytearray(file.read_bytes())
    content[read_header(file).tensors["model.layers.1.mlp.up_proj.weight"].start] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"tt000\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight\n  is damaged"):
        train("weights.init=checkpoint", "output.dir=next", "weights.source=run/step_000002")
    assert not list((project / "next").glob("step_*"))


def test_refuses_a_config_of_another_model(project: Path, snapshot: Snapshot) -> None:
    config = json.loads(Path("checkpoint/config.json").read_text())
    table = config.get("text_config", config)
    table["num_hidden_layers"] += 1
    Path("checkpoint/config.json").write_text(json.dumps(config))
    assert "text.num_layers" in refuse(snapshot, InputError)


def test_a_finished_record_can_be_read_back(project: Path) -> None:
    train("train.steps=2")
    record = read_record(project / "run")
    assert record is not None
    assert record.result is not None
    assert record.result["hf"] == "run/hf"
