"""What a run refuses: with the reason, and before it writes anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.errors import InputError, OutputError, WeightsError
from qvl_core.weights.safetensors_header import read_header
from whole_runs import cut_checkpoint, stop_after, train

Finished = Callable[..., None]
Snapshot = Callable[[], dict[str, bytes]]


def refuse(snapshot: Snapshot, kind: type[InputError], *settings: str, resume: str = "auto") -> str:
    """Run, expect the error, and check that no file was made, changed or removed."""
    before = snapshot()
    with pytest.raises(kind) as error:
        train(*settings, resume=resume)
    assert snapshot() == before
    return str(error.value)


def test_refuses_the_folder_of_another_run_and_lists_the_differences(
    project: Path, snapshot: Snapshot, finished: Finished
) -> None:
    finished("train.steps=2")
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


def test_never_refuses_to_continue(project: Path, snapshot: Snapshot, finished: Finished) -> None:
    finished("train.steps=2")
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


def test_refuses_weights_that_are_missing_empty_truncated_or_misshapen(
    project: Path, snapshot: Snapshot, finished: Finished
) -> None:
    finished("train.steps=2")
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


def test_refuses_another_layout_with_the_command_that_mends_it(
    project: Path, snapshot: Snapshot, finished: Finished
) -> None:
    finished("train.steps=2")
    cut_checkpoint(project / "run" / "step_000002", project / "cut")
    use = ("weights.init=checkpoint", "output.dir=next", "weights.source=cut")
    text = refuse(snapshot, WeightsError, *use)
    assert "qvl convert reshard --sharded cut --out cut-tp1-pp1 --tp 1 --pp 1" in text
    assert "or qvl run recipe.toml --reshard" in text
    (project / "cut" / "config.json").unlink()
    assert "cut has no config.json" in refuse(snapshot, WeightsError, *use)


def test_a_flipped_bit_of_the_weights_ends_the_start_with_the_tensors_name(project: Path, finished: Finished) -> None:
    finished("train.steps=2")
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
    shutil.copytree("checkpoint", "other")
    Path("other/config.json").write_text(json.dumps(config))
    assert "text.num_layers" in refuse(snapshot, InputError, "weights.source=other")
