"""Options: ranges, unknown names, and those of a checkpoint's generation_config.json."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from qvl_core.errors import InputError, WeightsError
from qvl_core.generate import GenerationOptions, changed_options, read_generation_config


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("max_new_tokens", 0, 1),
        ("min_new_tokens", -1, 0),
        ("temperature", -0.1, 0.0),
        ("temperature", float("nan"), 5.0),
        ("top_k", -1, 0),
        ("top_p", -0.01, 0.0),
        ("top_p", float("nan"), 0.5),
        ("top_p", 1.01, 1.0),
        ("repetition_penalty", 0.0, 0.5),
        ("seed", -1, 2**64 - 1),
    ],
)
def test_refuses_values_out_of_range_and_takes_their_neighbours(key: str, wrong: float, right: float) -> None:
    assert getattr(changed_options(GenerationOptions(), {key: right}), key) == right
    with pytest.raises(InputError, match="has to be") as caught:
        changed_options(GenerationOptions(), {key: wrong})
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("max_new_tokens", 2.5, np.int64(2)),
        ("max_new_tokens", True, 1),
        ("min_new_tokens", "3", 3),
        ("do_sample", "no", False),
        ("do_sample", 1, np.True_),
        ("temperature", "warm", np.float32(0.5)),
        ("top_k", 1.5, 1),
        ("top_p", [0.5], 0.5),
        ("repetition_penalty", "1.1", 1),
        ("eos_token_id", "</s>", 2),
        ("eos_token_id", [1, 2.0], [1, 2]),
        ("pad_token_id", 0.5, 0),
        ("seed", 0.5, 0),
    ],
)
def test_refuses_values_of_another_type_and_takes_their_neighbours(key: str, wrong: object, right: object) -> None:
    changed = getattr(changed_options(GenerationOptions(), {key: right}), key)
    assert changed == (tuple(right) if isinstance(right, list) else right)
    with pytest.raises(InputError, match="it has to be") as caught:
        changed_options(GenerationOptions(), {key: wrong})
    assert [problem.key for problem in caught.value.problems] == [key]


def test_all_wrong_types_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        GenerationOptions(max_new_tokens="9", temperature=None, seed="x")  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == ["max_new_tokens", "seed", "temperature"]


def test_refuses_an_unknown_name_and_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"num_beams.*\n.*is not an option\n.*max_new_tokens"):
        changed_options(GenerationOptions(), {"num_beams": 4})


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(GenerationOptions)])
def test_none_switches_an_option_off(key: str) -> None:
    defaults = GenerationOptions(
        max_new_tokens=3, min_new_tokens=2, do_sample=True, temperature=0.5, top_k=5, top_p=0.5, repetition_penalty=2.0,
        eos_token_id=4, pad_token_id=1, seed=8,
    )  # fmt: skip
    changed = changed_options(defaults, {key: None})
    assert changed == dataclasses.replace(defaults, **{key: getattr(GenerationOptions(), key)})


@pytest.mark.parametrize(
    ("stops", "expected", "pad"),
    [
        (7, (7,), 7),
        ([8, 9], (8, 9), 8),
        ((), (), 0),
        (None, (), 0),
        (np.int64(7), (7,), 7),
        (np.array([8, 9]), (8, 9), 8),
        ([np.int64(8)], (8,), 8),
    ],
)
def test_stop_tokens_are_one_or_several(stops: object, expected: tuple[int, ...], pad: int) -> None:
    options = changed_options(GenerationOptions(), {"eos_token_id": stops})
    assert options.stop_ids == expected
    assert options.pad_id == pad
    assert changed_options(options, {"pad_token_id": 3}).pad_id == 3


def test_reads_the_file_of_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = {
        "bos_token_id": 1, "pad_token_id": 2, "eos_token_id": [3, 2], "do_sample": True, "temperature": 1e-6,
        "repetition_penalty": 1.05, "transformers_version": "4.49.0", "num_beams": 4, "top_k": None,
        "output_attentions": False,
    }  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        options = read_generation_config(tmp_path)
    assert options == GenerationOptions(
        pad_token_id=2, eos_token_id=(3, 2), do_sample=True, temperature=1e-6, repetition_penalty=1.05
    )
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["num_beams"]


def test_a_checkpoint_without_the_file_has_the_plain_defaults(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == GenerationOptions()


def test_refuses_a_file_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"generation_config\.json"):
        read_generation_config(tmp_path)
