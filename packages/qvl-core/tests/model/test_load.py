"""Weights come from HF folders to the bit, and a folder that does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from numpy.typing import NDArray
from qvl_core.errors import WeightsError
from qvl_core.model import Qwen25VL, random_weights
from qvl_core.specs.load import load_spec, shipped_config_path
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.tensor_io import tensor_from_array
from small_models import TIED, lively_weights

TINY = load_spec("qwen2.5-vl-tiny")
Weights = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return dict(random_weights(TINY, 3))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes an HF folder of the tiny model."""
    side = tmp_path / "side"
    side.mkdir()
    (side / "config.json").write_bytes(shipped_config_path("qwen2.5-vl-tiny").read_bytes())
    (side / "generation_config.json").write_text(json.dumps({"eos_token_id": [492, 490], "repetition_penalty": 1.05}))

    def write_folder(tensors: Weights, dtype: str = "F32", **options: object) -> Path:
        folder = tmp_path / "hf"
        write_hf_folder((tensor_from_array(*item, dtype) for item in tensors.items()), side, folder, **options)
        return folder

    return write_folder


@pytest.mark.parametrize("naming", ["classic", "new"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 200_000])
def test_reads_both_spellings_from_one_file_or_several(
    write: Callable[..., Path], weights: Weights, naming: str, max_shard_bytes: int
) -> None:
    folder = write(weights, naming=naming, max_shard_bytes=max_shard_bytes)
    assert (folder / "model.safetensors.index.json").exists() == (max_shard_bytes < 10**9)
    model = Qwen25VL.from_pretrained(folder)
    found = list(model.named_arrays())
    assert [name for name, _ in found] == list(weights)
    for name, array in found:
        np.testing.assert_array_equal(array, weights[name])


@pytest.mark.parametrize(("stored", "dtype"), [("BF16", "float32"), ("F16", "float32"), ("F16", "float16")])
def test_casts_stored_half_precision(write: Callable[..., Path], weights: Weights, stored: str, dtype: str) -> None:
    model = Qwen25VL.from_pretrained(write(weights, stored), dtype)
    for name, array in model.named_arrays():
        assert array.dtype == np.dtype(dtype)
        # Half an ulp of 8 bits (bf16) or 11 bits (fp16); fp16 below 6e-5 is spaced evenly.
        np.testing.assert_allclose(array, weights[name], rtol=2**-8 if stored == "BF16" else 2**-11, atol=3e-8)


def test_a_sharded_folder_is_refused_with_the_export_command(write: Callable[..., Path], weights: Weights) -> None:
    folder = write(weights)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(WeightsError, match="from_pretrained reads HF folders") as error:
        Qwen25VL.from_pretrained(folder)
    assert error.value.problems[0].fix == f"qvl convert export --sharded {folder} --out {folder}-hf"


def test_keeps_stored_bfloat16_to_the_bit(write: Callable[..., Path], weights: Weights) -> None:
    folder = write(weights, "BF16")
    model = Qwen25VL.from_pretrained(folder, "bfloat16")
    exact = dict(Qwen25VL.from_pretrained(folder).named_arrays())
    for name, array in model.named_arrays():
        assert array.dtype.name == "bfloat16"
        np.testing.assert_array_equal(array.astype(np.float32), exact[name])


def test_takes_generation_defaults_from_the_folder(write: Callable[..., Path], weights: Weights) -> None:
    defaults = Qwen25VL.from_pretrained(write(weights)).generation_defaults
    assert defaults.stop_ids == (492, 490)
    assert defaults.repetition_penalty == 1.05


def test_refuses_a_folder_with_a_missing_tensor(write: Callable[..., Path], weights: Weights) -> None:
    rest = {name: array for name, array in weights.items() if name != "model.norm.weight"}
    with pytest.raises(WeightsError, match=r"model\.norm\.weight"):
        Qwen25VL.from_pretrained(write(rest))


def test_refuses_a_folder_with_an_extra_tensor(write: Callable[..., Path], weights: Weights) -> None:
    with pytest.raises(WeightsError, match=r"visual\.extra\.weight"):
        Qwen25VL.from_pretrained(write({**weights, "visual.extra.weight": np.ones(3, np.float32)}))


def test_refuses_a_folder_with_a_misshapen_tensor(write: Callable[..., Path], weights: Weights) -> None:
    wrong = {**weights, "visual.merger.ln_q.weight": np.ones(63, np.float32)}
    with pytest.raises(WeightsError, match=r"visual\.merger\.ln_q\.weight has shape \[63\], the model needs \[64\]"):
        Qwen25VL.from_pretrained(write(wrong))


def test_from_spec_takes_any_order_and_gives_the_same_arrays() -> None:
    given = dict(lively_weights(TIED))
    model = Qwen25VL.from_spec(TIED, reversed(given.items()))
    for name, array in model.named_arrays():
        np.testing.assert_array_equal(array, given[name])


def test_from_spec_reports_all_that_does_not_fit() -> None:
    given = dict(lively_weights(TIED))
    given["model.norm.weight"] = given["model.norm.weight"][:-1]
    given["model.extra"] = np.zeros(1, np.float32)
    del given["visual.merger.mlp.0.bias"]
    with pytest.raises(WeightsError) as caught:
        Qwen25VL.from_spec(TIED, given.items())
    found = {problem.key: problem.message for problem in caught.value.problems}
    assert found == {
        "model.norm.weight": "has shape [23]; small, tied needs [24]",
        "model.extra": "is not a weight of this model",
        "visual.merger.mlp.0.bias": "is missing",
    }
