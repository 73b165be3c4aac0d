"""How a run is continued: from a checkpoint that is named, with changes that are accepted, and when it is refused."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core import run_folder
from qvl_core.errors import InputError, OutputError, WeightsError
from qvl_core.recipe import load_recipe
from qvl_core.run_folder import read_record
from qvl_core.tasks import RunOptions
from qvl_train import room, task
from qvl_train.checkpoint import list_steps, open_checkpoint
from tensorboardX.proto import event_pb2
from whole_runs import losses, train, train_until

Finished = Callable[..., None]
Usage = namedtuple("Usage", "total used free")


def steps_of(folder: str = "run") -> list[int]:
    return sorted(step for step, _ in list_steps(Path(folder)))


def history(folder: str = "run") -> Any:
    record = read_record(Path(folder))
    assert record is not None
    return record.history


@pytest.mark.parametrize("spelling", ["run/step_000002", "./run/../run/step_000002/", "absolute"])
def test_a_named_checkpoint_is_continued_and_what_came_after_it_is_done_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, finished: Finished
) -> None:
    finished("train.log.tensorboard=true")
    whole = losses()
    old = (project / "run" / "step_000004" / "state.json").stat().st_ino
    requested = str(project / "run" / "step_000002") if spelling == "absolute" else spelling
    train_until(monkeypatch, 6, "train.log.tensorboard=true", resume=requested)
    # Rows after step 2 are new ones, and so is step 4; step 6 was that of the first time and is gone.
    assert losses() == whole[:5]
    assert steps_of() == [2, 4]
    assert (project / "run" / "step_000004" / "state.json").stat().st_ino != old
    assert train("train.log.tensorboard=true") == 0
    assert losses() == whole
    assert steps_of() == [2, 4, 6]
    files = sorted((project / "run" / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [purge_step(path) for path in files] == [1, 3, 5]


def test_a_continuation_from_a_named_checkpoint_that_dies_at_once_does_not_jump_ahead(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: Finished
) -> None:
    finished()
    whole = losses()
    train_until(monkeypatch, 4, resume="run/step_000002")
    assert "set aside: run/step_000006.set-aside-1" in capsys.readouterr().out
    assert steps_of() == [2]
    assert train() == 0
    assert losses() == whole


def test_fewer_steps_than_are_done_are_refused_and_change_nothing(project: Path, finished: Finished) -> None:
    finished()
    before = Path("run/run.json").read_bytes()
    with pytest.raises(OutputError, match=r"is 4 in all; the checkpoint .* is already after step 6"):
        train("train.steps=4", accept=True)
    assert Path("run/run.json").read_bytes() == before
    assert steps_of() == [2, 4, 6]
    assert train("train.steps=4", resume="run/step_000002", accept=True) == 0
    assert steps_of() == [2, 4]


def test_a_damaged_checkpoint_that_is_asked_for_with_changes_changes_nothing(project: Path, finished: Finished) -> None:
    finished()
    file = Path("run/step_000002/rank-pp000-tt000.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    before = Path("run/run.json").read_bytes()
    with pytest.raises(WeightsError, match="--resume run/step_000004"):
        train("train.optimizer.lr=5e-4", resume="run/step_000002", accept=True)
    assert Path("run/run.json").read_bytes() == before
    assert {step for step, _ in list_steps(Path("run"))} == {2, 4, 6}


def test_another_batch_is_refused_where_the_length_is_stated_in_epochs(project: Path) -> None:
    recipe = Path("recipe.toml")
    recipe.write_text(recipe.read_text().replace("steps = 6", "epochs = 1"))
    train()
    with pytest.raises(OutputError, match=r"train\.global_batch: cannot be changed"):
        train("train.global_batch=8", accept=True)


def test_a_run_whose_last_row_was_lost_is_finished_all_the_same(project: Path, finished: Finished) -> None:
    finished()
    metrics, record = Path("run/metrics.jsonl"), json.loads(Path("run/run.json").read_text())
    # As a power cut leaves it: the checkpoint is synced, rows are not.
    rows = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] < 6]
    metrics.write_text("".join(f"{line}\n" for line in rows))
    shutil.rmtree("run/hf")
    Path("run/run.json").write_text(json.dumps({**record, "result": None}))
    assert train() == 0
    assert Path("run/hf/model.safetensors").is_file()
    found = read_record(Path("run"))
    assert found is not None
    assert found.result is not None
    assert found.result["steps"] == 6


def test_a_link_to_an_archived_checkpoint_loses_the_link_only(project: Path, finished: Finished) -> None:
    finished()
    shutil.move("run/step_000002", "archived")
    Path("run/step_000002").symlink_to(project / "archived")
    Path("run/step_000099").write_text("a note")
    files = sorted(path.name for path in Path("archived").iterdir())
    assert train("train.steps=10", "train.save.keep=2", accept=True) == 0
    assert sorted(path.name for path in Path("archived").iterdir()) == files
    assert steps_of() == [8, 10]
    assert Path("run/step_000099").read_text() == "a note"


def purge_step(path: Path) -> int:
    data = path.read_bytes()
    first = int.from_bytes(data[:8], "little")
    data = data[16 + first :]
    return event_pb2.Event.FromString(data[12 : 12 + int.from_bytes(data[:8], "little")]).step


def test_a_damaged_or_incomplete_checkpoint_is_refused_with_the_nearest_one_that_can_be_used(project: Path) -> None:
    train("train.save.every=1", "train.save.keep=9")
    run = project / "run"
    for step, file in ((2, "manifest.json"), (3, "optimizer-pp000-tt000.safetensors")):
        (run / f"step_{step:06d}" / file).unlink()
    damaged = run / "step_000004" / "rank-pp000-tt000.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for step, nearest in ((2, 1), (3, 5), (4, 5)):
        with pytest.raises(WeightsError) as error:
            train("train.save.every=1", "train.save.keep=9", resume=f"run/step_{step:06d}")
        assert f"fix: the nearest checkpoint that can be used: --resume run/step_{nearest:06d}" in str(error.value)
    assert steps_of() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "told"), [("run/hf", "is not named like a checkpoint"), ("other/step_000002", "outside this run's folder")]
)
def test_a_folder_that_is_no_checkpoint_of_this_run_is_refused(
    project: Path, name: str, told: str, finished: Finished
) -> None:
    finished("train.steps=2")
    train("train.steps=2", "output.dir=other")
    with pytest.raises(OutputError, match=told):
        train("train.steps=2", resume=name)


def test_a_checkpoint_copied_from_another_run_is_refused(project: Path) -> None:
    train("train.steps=4")
    train("train.steps=4", "output.dir=other")
    shutil.rmtree("run/step_000002")
    shutil.copytree("other/step_000002", "run/step_000002")
    with pytest.raises(WeightsError, match="belongs to run"):
        train("train.steps=4", resume="run/step_000002")
    shutil.move("run/step_000002", "run/step_000003")
    with pytest.raises(WeightsError, match="is that of step 2"):
        train("train.steps=4", resume="run/step_000003")


def test_the_state_says_what_the_next_step_needs(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
    state = json.loads(Path("run/step_000002/state.json").read_text())
    record = read_record(project / "run")
    assert record is not None
    assert (state["step"], state["consumed_samples"], state["seed"]) == (2, 8, 42)
    assert state["run_id"] == record.run_id
    assert state["data_hash"] == record.hashes["data"]
    assert state["randomness"].startswith("from the seed and consumed_samples")


# Changes.


def test_changes_are_refused_one_by_one_and_accepted_when_told_so(
    project: Path, capsys: pytest.CaptureFixture[str], finished: Finished
) -> None:
    finished()
    changes = ("train.steps=8", "train.optimizer.lr=5e-4", "train.global_batch=6")
    with pytest.raises(OutputError) as error:
        train(*changes)
    for line in (
        "train.global_batch: here 6, there 4",
        "train.optimizer.lr: here 0.0005, there 0.001",
        "train.steps: here 8, there 6",
        "or go on with the changes: --accept-changes",
    ):
        assert line in str(error.value)
    capsys.readouterr()
    assert train(*changes, accept=True) == 0
    out = capsys.readouterr().out
    assert "going on with these changes:\n  train.global_batch: here 6, there 4\n" in out
    assert [step for step, *_ in losses()] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert json.loads(Path("run/step_000008/state.json").read_text())["consumed_samples"] == 24 + 2 * 6
    (entry,) = history()
    assert entry["after_step"] == 6
    assert entry["differences"][2] == "train.steps: here 8, there 6"
    # From now on this is the run: no need to say it again, and the old recipe is the other one.
    assert train(*changes) == 0
    with pytest.raises(OutputError, match=r"train\.steps: here 6, there 8"):
        train()


def test_changed_data_is_accepted_when_told_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(monkeypatch, 4)
    records = json.loads(Path("train.json").read_text())
    Path("train.json").write_text(json.dumps(records[:-1]))
    with pytest.raises(OutputError, match="data hash: here"):
        train()
    assert train(accept=True) == 0
    (entry,) = history()
    before, now = entry["hashes"]["data"]
    assert json.loads(Path("run/step_000002/state.json").read_text())["data_hash"] == before
    assert json.loads(Path("run/step_000006/state.json").read_text())["data_hash"] == now
    # The old data's checkpoint is still one of this run.
    assert train(resume="run/step_000002") == 0


def test_changes_from_an_older_checkpoint_set_the_later_ones_aside(project: Path, finished: Finished) -> None:
    finished()
    assert train("train.optimizer.lr=5e-4", resume="run/step_000002", accept=True) == 0
    assert steps_of() == [2, 4, 6]
    aside = sorted(path.name for path in Path("run").glob("*.set-aside-*"))
    assert aside == ["step_000004.set-aside-1", "step_000006.set-aside-1"]
    open_checkpoint(Path("run/step_000006"))
    assert history()[0]["after_step"] == 2


@pytest.mark.parametrize(
    "setting", ['model.freeze=["vision"]', "model.dtype=bfloat16", "task=eval"], ids=["freeze", "dtype", "task"]
)
def test_what_no_checkpoint_can_be_continued_with_is_refused_with_the_reason(setting: str) -> None:
    key, _, value = setting.partition("=")
    record = run_folder.RunRecord.start({"task": "sft", "model": {"freeze": [], "dtype": "float32"}}, {"data": "a"})
    recipe: dict[str, Any] = {"task": "sft", "model": {"freeze": [], "dtype": "float32"}}
    table = recipe["model"] if key.startswith("model.") else recipe
    table[key.removeprefix("model.")] = json.loads(value) if value.startswith("[") else value
    with pytest.raises(OutputError, match=f"{key}: its checkpoints hold other tensors") as error:
        run_folder.check_continues(record, Path("run"), recipe, {"data": "a"}, accept=True)
    assert "--accept-changes" not in str(error.value)


def test_other_versions_are_a_warning_and_both_are_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_until(monkeypatch, 4)
    installed = run_folder.installed_versions()
    monkeypatch.setattr(run_folder, "installed_versions", lambda: {**installed, "numpy": "9.9"})
    assert train() == 0
    told = f"numpy: here 9.9, there {installed['numpy']}"
    assert told in capsys.readouterr().out
    (entry,) = history()
    assert entry["versions"] == {"numpy": [installed["numpy"], "9.9"]}
    assert entry["differences"] == []
    record = read_record(project / "run")
    assert record is not None
    assert record.versions["numpy"] == installed["numpy"]
    assert record.known_versions()["numpy"] == "9.9"


def test_settings_that_may_change_without_a_word_are_recorded_with_their_step(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(monkeypatch, 4)
    assert train("train.log.every=2", "train.save.keep=7") == 0
    (entry,) = history()
    assert entry["after_step"] == 2
    assert sorted(entry["settings"]) == ["train.log.every", "train.save.keep"]
    assert entry["settings"]["train.log.every"] == [1, 2]
    record = read_record(project / "run")
    assert record is not None
    assert record.recipe["train"]["log"]["every"] == 2
    # Continued as before, it has nothing to add.
    assert train("train.log.every=2", "train.save.keep=7") == 0
    assert len(history()) == 1


def test_settings_are_recorded_with_the_step_of_the_checkpoint_that_can_be_used(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(monkeypatch, 6)
    assert steps_of() == [2, 4]
    broken = next(Path("run/step_000004").glob("*.safetensors"))
    broken.write_bytes(broken.read_bytes()[:-9])
    assert train("train.log.every=2") == 0
    (entry,) = history()
    assert entry["after_step"] == 2


# Room.


def test_the_estimate_of_a_checkpoint_and_of_the_export_is_what_is_written(project: Path) -> None:
    for name, *settings in (("run",), ("frozen", 'model.freeze=["vision"]'), ("weights", "train.save.optimizer=false")):
        recipe = load_recipe("recipe.toml", ("train.steps=2", f"output.dir={name}", *settings))
        assert task.run(recipe, RunOptions()) == 0
        for estimate, folder in (
            (room.checkpoint_bytes(recipe), Path(name, "step_000002")),
            (room.export_bytes(recipe), Path(name, "hf")),
        ):
            written = sum(path.stat().st_size for path in folder.iterdir())
            # More than is needed, by a line for each tensor.
            assert written <= estimate <= written * 1.2


def test_a_disk_without_room_for_one_checkpoint_is_refused_before_anything_is_written(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("recipe.toml")
    need = room.checkpoint_bytes(recipe) + room.export_bytes(recipe)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(need, 1, need - 1))
    with pytest.raises(InputError, match="has not even room for one checkpoint and the export") as error:
        task.run(recipe, RunOptions())
    assert error.value.exit_code == 2
    assert "are free" in str(error.value)
    assert not (project / "run").exists()


def test_a_disk_without_room_for_what_is_kept_is_warned_of(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("recipe.toml")
    need = 4 * room.checkpoint_bytes(recipe) + room.export_bytes(recipe)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(need, 0, need))
    assert room.check_room(recipe, project / "run") == ""
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(need, 1, need - 1))
    assert "no room for the 3 checkpoints that are kept and one more" in room.check_room(recipe, project / "run")
    for step in (2, 4, 6):
        (project / "run" / f"step_{step:06d}").mkdir(parents=True)
    # Those that are there take no room any more.
    assert room.check_room(recipe, project / "run") == ""
