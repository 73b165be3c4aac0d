"""A run that stops and goes on sees what it would have seen, whatever else has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_files import llava, recipe_maker, save_image, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_data import prepare
from taken_steps import ids, take


@pytest.fixture(scope="module")
def sources_of_two(
    checkpoint: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Callable[..., Any], Callable[[tuple[float, float]], list[Any]]]:
    """Give a maker of recipes, and of their sources: seven records with pictures, five of text, with any weights."""
    folder = tmp_path_factory.mktemp("two")
    for number in range(7):
        save_image(folder / f"{number}.png", 40 + 30 * number, 60, seed=number)
    pictures = [llava(f"<image>\n{number}?", "Yes." * (number + 1), f"{number}.png") for number in range(7)]
    write_lines(folder / "a.jsonl", pictures)
    write_lines(folder / "b.jsonl", [llava(f"Question {number}?", "No. " * (3 * number + 1)) for number in range(5)])

    def sources(weights: tuple[float, float]) -> list[Any]:
        return [
            {"path": str(folder / name), "weight": w} for name, w in zip(("a.jsonl", "b.jsonl"), weights, strict=True)
        ]

    return recipe_maker(checkpoint, folder), sources


@settings(max_examples=30, deadline=None)
@given(
    weights=st.tuples(st.sampled_from([0.4, 1.0, 2.0]), st.sampled_from([1.0, 1.5])),
    packing=st.booleans(),
    streaming=st.booleans(),
    forgets=st.booleans(),
    balance=st.sampled_from(["none", "length"]),
    stop=st.integers(1, 5),
    ranks=st.sampled_from([(1, 2), (2, 1), (2, 4), (4, 2)]),
    workers=st.tuples(st.sampled_from([0, 2]), st.sampled_from([0, 1, 3])),
)
def test_a_run_that_stops_and_goes_on_with_other_ranks_and_workers_sees_the_same_steps(
    sources_of_two: tuple[Callable[..., Any], Callable[[tuple[float, float]], list[Any]]],
    weights: tuple[float, float],
    packing: bool,
    streaming: bool,
    forgets: bool,
    balance: str,
    stop: int,
    ranks: tuple[int, int],
    workers: tuple[int, int],
) -> None:
    make_recipe, sources = sources_of_two
    given_settings: dict[str, Any] = {
        "packing": packing,
        "streaming": streaming,
        "shuffle_buffer": 5,
        "balance": balance,
        "sequence_length": 200,
        "on_bad_sample": "skip",
    }

    data = prepare(make_recipe(sources(weights), **given_settings))

    def steps(first: int, count: int, dp_size: int, workers: int) -> list[list[str]]:
        """Give the samples of each step."""
        recipe = make_recipe(sources(weights), micro_batch=1, global_batch=4, workers=workers, **given_settings)
        each = [
            ids(take(data, recipe, count, consumed_samples=4 * first, dp_rank=rank, dp_size=dp_size))
            for rank in range(dp_size)
        ]
        return [sorted(name for rank in each for group in rank[number] for name in group) for number in range(count)]

    whole = steps(0, 6, 1, 0)
    if forgets:
        for memory in Path(make_recipe([]).data.cache_dir).glob("*"):
            memory.unlink()
    again = steps(0, stop, ranks[0], workers[0]) + steps(stop, 6 - stop, ranks[1], workers[1])
    assert again == whole
