"""data.vision_cache: refused where features would change, or where the media are not known before the first step."""

from __future__ import annotations

import pytest

CACHED = "data.vision_cache=true"
FROZEN = "model.freeze=['vision','merger']"


@pytest.mark.parametrize(
    ("settings", "message", "fix"),
    [
        ((), "vision and merger are trained", 'freeze = ["vision", "merger"] under [model]'),
        (("model.freeze=['vision']",), "merger is trained", 'freeze = ["vision", "merger"] under [model]'),
        (("model.freeze=['merger']",), "vision is trained", 'freeze = ["vision", "merger"] under [model]'),
        (
            ("train.lora.rank=4", "train.lora.components=['text','vision']", "train.lora.targets=['q_proj','qkv']"),
            "vision is adapted by train.lora",
            'components = ["text"] under [train.lora]',
        ),
        (
            (
                FROZEN,
                "train.lora.rank=4",
                "train.lora.components=['merger','vision']",
                "train.lora.targets=['qkv','mlp.0']",
            ),
            "vision and merger are adapted by train.lora",
            'components = ["text"] under [train.lora]',
        ),
        ((FROZEN, "data.streaming=true"), "with data.streaming nobody knows", "vision_cache = false, or"),
    ],
)
def test_refused(refuse, settings: tuple[str, ...], message: str, fix: str) -> None:
    errors = [found for found in refuse(CACHED, *settings) if found.severity == "error"]
    assert len(errors) == 1, [found.render() for found in errors]
    (problem,) = errors
    assert problem.key == "data.vision_cache"
    assert message in problem.message
    assert problem.fix.startswith(fix)


@pytest.mark.parametrize(
    "settings",
    [
        (FROZEN,),
        ("train.lora.rank=4", "train.lora.components=['text']"),
        (FROZEN, "train.lora.rank=4", "train.lora.components=['text']"),
        (FROZEN, "data.streaming=false"),
        (FROZEN, "data.packing=true"),
    ],
)
def test_accepted(load, settings: tuple[str, ...]) -> None:
    assert load(CACHED, *settings).data.vision_cache


def test_without_it_nothing_is_asked_for(load) -> None:
    load("data.vision_cache=false", "data.streaming=true")
