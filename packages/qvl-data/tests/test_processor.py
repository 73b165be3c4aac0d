"""A checkpoint folder is read without network and without running its code, and checked against the model."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_files import write_checkpoint
from qvl_core.errors import WeightsError
from qvl_core.specs.model_spec import ModelSpec
from qvl_data.processor import Processor, load_processor


def load(folder: Path, spec: ModelSpec) -> Processor:
    return load_processor(folder, spec, min_pixels=3136, max_pixels=50176)


@pytest.fixture
def copied(checkpoint: tuple[Path, ModelSpec], tmp_path: Path) -> tuple[Path, ModelSpec]:
    folder, spec = checkpoint
    return Path(shutil.copytree(folder, tmp_path / "copy")), spec


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json", "chat_template.jinja"])
def test_names_the_missing_file(copied: tuple[Path, ModelSpec], name: str) -> None:
    folder, spec = copied
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name.split(".")[0].replace("_", "[_ ]")):
        load(folder, spec)


def test_refuses_a_missing_folder_and_a_damaged_tokenizer(copied: tuple[Path, ModelSpec]) -> None:
    folder, spec = copied
    with pytest.raises(WeightsError, match="no such folder"):
        load(folder / "none", spec)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(folder, spec)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"patch_size": 16}, "patch_size"),
        ({"merge_size": 4}, "merge_size"),
        ({"temporal_patch_size": 1}, "temporal_patch_size"),
        ({"do_normalize": False}, "do_normalize"),
        ({"resample": 2}, "resample"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": "x"}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
    ],
)
def test_refuses_image_settings_that_do_not_fit(
    copied: tuple[Path, ModelSpec], settings: dict[str, object], key: str
) -> None:
    folder, spec = copied
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError) as caught:
        load(folder, spec)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_uses_the_mean_and_deviation_of_the_file(copied: tuple[Path, ModelSpec]) -> None:
    folder, spec = copied
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.0, 0.5, 1.0], "image_std": 0.5}))
    levels = load(folder, spec).images.levels
    np.testing.assert_array_equal(levels[:, 0], np.array([0.0, -1.0, -2.0], np.float32))


def test_reads_the_newer_processor_config(copied: tuple[Path, ModelSpec]) -> None:
    folder, spec = copied
    (folder / "preprocessor_config.json").unlink()
    content = {"image_processor": {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}}
    (folder / "processor_config.json").write_text(json.dumps(content))
    assert load(folder, spec).images.levels[0, 255] == 1.0


def test_finds_the_template_in_each_of_its_homes(copied: tuple[Path, ModelSpec]) -> None:
    folder, spec = copied
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    load(folder, spec)
    (folder / "chat_template.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    load(folder, spec)


def test_refuses_ids_and_vocabularies_of_another_model(copied: tuple[Path, ModelSpec]) -> None:
    folder, spec = copied
    with pytest.raises(WeightsError, match="no special token with the model's image id 151655"):
        load(folder, replace(spec, tokens=replace(spec.tokens, image=151655)))
    with pytest.raises(WeightsError, match="tokens, the model 100"):
        load(folder, replace(spec, text=replace(spec.text, vocab_size=100)))


def test_never_opens_a_connection_nor_runs_code_of_the_folder(
    copied: tuple[Path, ModelSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, spec = copied
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    # Refusing such a folder is as good as ignoring the code in it.
    with contextlib.suppress(WeightsError):
        load(folder, spec)
    assert not marker.exists()


def test_the_copied_folder_is_accepted_without_noise(
    tmp_path: Path, checkpoint: tuple[Path, ModelSpec], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(checkpoint[0], checkpoint[1])
    assert "PyTorch" not in caplog.text
    assert write_checkpoint(tmp_path / "again") == checkpoint[1].tokens


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": 16}, "the model has 14"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "normalises frames otherwise"),
        ({"image_std": [1]}, "expected 3 numbers above 0"),
    ],
)
def test_refuses_a_video_config_that_says_other_things(
    copied: tuple[Path, ModelSpec], config: dict[str, object], message: str
) -> None:
    folder, spec = copied
    path = folder / "video_preprocessor_config.json"
    path.write_text(json.dumps({"patch_size": 14, "temporal_patch_size": 2}))
    load(folder, spec)
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message) as caught:
        load(folder, spec)
    assert "video_preprocessor_config.json" in caught.value.problems[0].where
