"""Training from kept vision features: the same losses and gradient norms to the bit, in every layout and through stops.

Runs of one process here; several ranks in threads, as in test_other_layouts.py.
"""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core import disk
from qvl_core.errors import DataError, DiskError, OutputError, RunError
from qvl_core.feature_store import DamagedFeaturesError
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.stage import build_stage
from qvl_core.recipe import load_recipe
from qvl_data import prepare, samples
from qvl_data.media.error import MediaError
from qvl_data.samples import MediumPatches
from qvl_data.vision_media import VisionMedia, list_media
from qvl_train import vision_cache
from qvl_train.worker import initial_weights
from whole_runs import before_step, losses, rows, stop_after, train

# Two epochs of the 19 samples that are trained on, and a step of the third.
STEPS = 11
FROZEN = (
    *("model.freeze=['vision','merger']", "data.validation.fraction=0.2"),
    *(f"train.steps={STEPS}", f"train.save.every={STEPS}"),
)
CACHED = ("data.vision_cache=true", "output.dir=cached")


VIDEO = "[data.video]\nfps = 4.0\nmax_frames = 7\nmin_pixels = 3136\nmax_pixels = 4704"


def save_clip(path: Path, times_ms: list[int]) -> None:
    """Write frames that differ, each shown from its time on."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            pixels = np.random.default_rng(number // 4).integers(0, 255, (64, 96, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def mixed(project: Path) -> Path:
    """Records with no, one and three images of several sizes, and videos; some images in several records."""
    from PIL import Image

    records = json.loads((project / "train.json").read_text())
    for number, record in enumerate(records):
        path = project / record["image"]
        Image.open(path).resize((40 + 24 * (number % 5), 40 + 16 * (number % 7))).save(path)
    names = [record["image"] for record in records]
    for number, record in enumerate(records):
        first = record["conversations"][0]
        if number % 4 == 1:
            record.pop("image")
            first["value"] = "How are you?"
        elif number % 4 == 2:
            record["image"] = [names[number], names[0], names[number - 1]]
            first["value"] = "<image><image><image>\nWhich digits?"
        elif number in (3, 7):
            # One of even rate, one whose slices have times that only decoding tells; a picture beside it.
            save_clip(project / f"{number}.mkv", [40 * i + (i * i if number == 3 else 0) for i in range(30)])
            record["video"] = f"{number}.mkv"
            first["value"] = "<image><video>\nWhich digit moves?"
    (project / "train.json").write_text(json.dumps(records))
    recipe = (project / "recipe.toml").read_text()
    recipe = recipe.replace("sequence_length = 128", "sequence_length = 512")
    recipe = recipe.replace("max_pixels = 3136", f"max_pixels = 12544\n{VIDEO}")
    (project / "recipe.toml").write_text(recipe)
    return project


def validations(folder: str = "run") -> list[tuple[int, str]]:
    return [(row["step"], row["validation_loss"].hex()) for row in rows(folder) if "validation_loss" in row]


def files(project: Path) -> list[Path]:
    return sorted((project / "cache").rglob("*.features"))


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_the_losses_are_those_without_the_cache_to_the_bit(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], micro_batch: int
) -> None:
    settings = (*FROZEN, f"train.micro_batch={micro_batch}")
    train(*settings)
    capsys.readouterr()
    train(*settings, *CACHED)
    assert len(losses()) == STEPS
    assert losses("cached") == losses()
    assert validations("cached") == validations() != []
    kept = files(mixed)
    assert len({path.stat().st_size for path in kept}) > 5
    said = capsys.readouterr().out
    assert f"{len(kept)} images and videos, 0 of them known; {len(kept)} to compute" in said
    assert "free" in said


def test_a_run_goes_on_in_the_middle_with_or_without_the_cache(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*FROZEN, "train.steps=8", "train.save.every=2")
    train(*settings)
    for number, (before, after) in enumerate([("true", "true"), ("false", "true"), ("true", "false")]):
        folder = f"output.dir=stopped{number}"
        with monkeypatch.context() as patch:
            stop_after(patch, 3)
            train(*settings, folder, f"data.vision_cache={before}")
        train(*settings, folder, f"data.vision_cache={after}")
        assert losses(f"stopped{number}") == losses()


def test_with_adapters_of_the_text_alone(mixed: Path) -> None:
    lora = ("train.lora.components=['text']", "train.lora.dropout=0.1", "model.freeze=[]", "train.steps=6")
    train(*FROZEN, *lora)
    train(*FROZEN, *lora, *CACHED)
    assert losses("cached") == losses()


def test_no_image_is_opened_and_no_vision_layer_runs_once_all_is_known(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvl_core.model.vision import VisionEncoder

    settings = (*FROZEN, "train.steps=4")
    train(*settings, *CACHED)
    wanted = losses("cached")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(samples, "load_image", refuse)
    monkeypatch.setattr(VisionEncoder, "construct", refuse)
    train(*settings, *CACHED, "output.dir=again")
    assert losses("again") == wanted
    assert {row["model_tflops_vision"] for row in rows("again") if "loss" in row} == {0.0}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "its content does not match its checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, expected"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, expected"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has more than"),
    ],
    ids=["a flipped bit", "truncated", "empty", "too long"],
)
def test_a_damaged_file_is_named_and_computed_anew(
    mixed: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    settings = (*FROZEN, "train.steps=2")
    train(*settings, *CACHED)
    wanted, one = losses("cached"), files(mixed)[3]
    whole = one.read_bytes()
    damage(one)
    capsys.readouterr()
    train(*settings, *CACHED, "output.dir=again")
    text = capsys.readouterr().out
    assert "1 files are damaged and are computed anew" in text
    assert f"{one.relative_to(mixed)}: " in text
    assert said in text
    assert "1 to compute" in text
    assert losses("again") == wanted
    assert one.read_bytes() == whole


def test_a_file_that_is_damaged_while_the_run_goes_stops_it_and_says_so(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage_all(step: int) -> None:
        for path in files(mixed) if step == 2 else ():
            flip(path)

    with monkeypatch.context() as patch:
        before_step(patch, damage_all)
        with pytest.raises(DamagedFeaturesError, match="does not match its checksum; it was whole when"):
            train(*FROZEN, *CACHED)


def test_other_weights_and_other_pixels_are_other_features(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (*FROZEN, "train.steps=1", *CACHED)
    train(*settings)
    count = len(files(mixed))
    capsys.readouterr()
    train(*settings, "train.seed=7", "output.dir=other_weights")
    assert f", 0 of them known; {count} to compute" in capsys.readouterr().out
    assert len({path.parent.parent for path in files(mixed)}) == 2
    train(*settings, "data.image.max_pixels=7840", "output.dir=other_pixels")
    text = capsys.readouterr().out
    assert ", 0 of them known" not in text, "the small images look the same under both limits"
    assert ", 0 to compute" not in text, "the large ones do not"


def test_a_changed_image_is_computed_and_the_others_are_known(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    settings = (*FROZEN, "train.steps=1", *CACHED)
    train(*settings)
    Image.new("RGB", (60, 60), "red").save(mixed / "images" / "0000.png")
    capsys.readouterr()
    train(*settings, "output.dir=changed")
    assert "; 1 to compute" in capsys.readouterr().out


def test_refuses_a_disk_without_room_before_anything_is_computed(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vision_cache, "_free_bytes", lambda folder: 5000)
    with pytest.raises(OutputError, match=r"data.cache_dir\n.*the vision features need .* \(.* bytes\), .* are free"):
        train(*FROZEN, *CACHED)
    assert "4.88 KiB free" in capsys.readouterr().out
    assert not (mixed / "cache" / "vision").exists()


def test_refuses_a_folder_that_cannot_be_written(mixed: Path) -> None:
    (mixed / "cache").mkdir()
    (mixed / "cache" / "vision").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written") as error:
        train(*FROZEN, *CACHED)
    assert error.value.problems[0].key == "data.cache_dir"
    assert "data.vision_cache=false" in error.value.problems[0].fix


def test_a_disk_that_fills_up_ends_the_run_and_leaves_no_part_of_a_file(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = disk.write

    def full(descriptor: int, data: Any) -> int:
        if len(files(mixed)) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", full)
        with pytest.raises(DiskError, match="No space left on device"):
            train(*FROZEN, *CACHED)
    assert len(files(mixed)) == 5
    assert not [path for path in (mixed / "cache" / "vision").rglob("*") if ".tmp-" in path.name]


def test_a_pass_that_was_killed_goes_on_where_it_was(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*FROZEN, "train.steps=2")
    train(*settings)

    # A process of its own: a fork of one that has loaded MindSpore hangs.
    program = """
import os, signal, sys
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_train import task, vision_fill

def kill(self, done):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)

vision_fill.FillProgress.tell = kill
task.run(load_recipe("recipe.toml", sys.argv[1:]), RunOptions())
"""
    command = [sys.executable, "-c", program, *settings, *CACHED, "output.dir=killed"]
    assert subprocess.run(command, capture_output=True, timeout=900, check=False).returncode == -signal.SIGKILL
    assert len(files(mixed)) == 7
    capsys.readouterr()
    train(*settings, *CACHED)
    assert ", 7 of them known" in capsys.readouterr().out
    assert losses("cached") == losses()


def test_features_that_are_not_finite_are_not_kept(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: VisionMedia, number: int) -> MediumPatches:
        grid = tuple(self.grids[number].tolist())
        return MediumPatches(patches=np.full((int(np.prod(grid)), self.patch_dim), np.inf, np.float32), grid=grid)

    monkeypatch.setattr(VisionMedia, "load", load)
    with pytest.raises(RunError, match=r"train.json.*: the vision features .* are not finite"):
        train(*FROZEN, *CACHED)
    assert not files(mixed)


def test_a_bad_medium_stops_the_run_or_fails_its_samples(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = VisionMedia.load

    def load(self: VisionMedia, number: int) -> MediumPatches:
        if number == 2:
            raise MediaError("broken in the middle")
        return real(self, number)

    monkeypatch.setattr(VisionMedia, "load", load)
    with pytest.raises(DataError, match=r"train.json.*: .*/images/.*.png\n  broken in the middle"):
        train(*FROZEN, *CACHED)
    recipe = load_recipe("recipe.toml", (*FROZEN, *CACHED, "data.on_bad_sample=skip"))
    data = prepare(recipe)
    world = SingleWorld(recipe.parallel)
    model = build_stage(recipe.spec, world, initial_weights(recipe, world, reshard=False))
    assert any(list_media(data).times), "one video has times of its own"
    known = vision_cache.use_features(recipe, data, model, world, lambda text: None)
    media = list_media(data)
    dataset, sample = media.places[2][:2]
    with pytest.raises(DataError, match="broken in the middle") as error:
        (known.train if dataset is data.train else known.validation).sample(sample)
    assert error.value.problems[0].where == media.where(2)
    assert len(files(mixed)) == len(media) - 1
    train(*FROZEN, "train.steps=8", *CACHED, "data.on_bad_sample=skip", "output.dir=skipping")
    assert "broken in the middle" in (mixed / "skipping" / "bad_samples.jsonl").read_text()
