"""The choice of a token, against values worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from qvl_core.generate import GenerationOptions, sampling

SCORES = np.log(np.array([0.5, 0.05, 0.25, 0.15, 0.05], np.float32))
NOTHING_SEEN = np.zeros(0, np.int64)


def kept(scores: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(scores)).tolist()


def test_repetition_penalty_divides_positive_and_multiplies_negative_scores_once() -> None:
    scores = np.array([2.0, -2.0, 3.0, 0.0], np.float32)
    result = sampling.penalise_repetition(scores, np.array([0, 1, 1, 3]), 2.0)
    assert result.tolist() == [1.0, -4.0, 3.0, 0.0]
    assert scores.tolist() == [2.0, -2.0, 3.0, 0.0], "the given scores were changed"


def test_repetition_penalty_changes_the_greedy_choice() -> None:
    scores = np.array([2.0, 1.5], np.float32)
    rng = sampling.row_generator(0, 0)
    assert sampling.choose_token(scores, np.array([0]), GenerationOptions(), rng) == 0
    assert sampling.choose_token(scores, np.array([0]), GenerationOptions(repetition_penalty=2.0), rng) == 1


@pytest.mark.parametrize(("count", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [0]), (3, [0, 2, 3]), (9, [0, 1, 2, 3, 4])])
def test_top_k_keeps_the_best(count: int, expected: list[int]) -> None:
    assert kept(sampling.keep_top_k(SCORES, count)) == expected


def test_top_k_keeps_ties_with_the_last_one() -> None:
    assert kept(sampling.keep_top_k(SCORES, 4)) == [0, 1, 2, 3, 4]


# From the worst up: 0.05, 0.10, 0.25, 0.50, 1.00; what stays within 1 - p goes.
@pytest.mark.parametrize(
    ("probability", "expected"),
    [(1.0, [0, 1, 2, 3, 4]), (0.92, [0, 2, 3, 4]), (0.85, [0, 2, 3]), (0.7, [0, 2]), (0.4, [0]), (1e-6, [0]), (0.0, [0])],
)
def test_top_p_keeps_the_best_that_reach_the_probability(probability: float, expected: list[int]) -> None:
    assert kept(sampling.keep_top_p(SCORES, probability)) == expected


def test_draws_follow_the_probabilities() -> None:
    rng = sampling.row_generator(5, 0)
    counts = np.bincount([sampling.draw(SCORES, rng) for _ in range(4000)], minlength=5)
    # Four standard errors of 4000 draws are at most 0.032.
    np.testing.assert_allclose(counts / 4000, np.exp(SCORES), atol=0.032)


def test_temperature_comes_before_top_p() -> None:
    # At temperature 0.5 probabilities are squared: 0.716, 0.179, 0.064, ... so 0.7 keeps one token, not two.
    options = GenerationOptions(do_sample=True, temperature=0.5, top_p=0.7)
    rng = sampling.row_generator(1, 0)
    assert {sampling.choose_token(SCORES, NOTHING_SEEN, options, rng) for _ in range(200)} == {0}
    warm = GenerationOptions(do_sample=True, temperature=1.0, top_p=0.7)
    assert {sampling.choose_token(SCORES, NOTHING_SEEN, warm, rng) for _ in range(200)} == {0, 2}


@pytest.mark.parametrize("options", [GenerationOptions(), GenerationOptions(do_sample=True, temperature=0.0)])
def test_greedy_takes_the_best_and_draws_nothing(options: GenerationOptions) -> None:
    rng = sampling.row_generator(0, 0)
    before = rng.bit_generator.state["state"]["counter"].tolist()
    assert sampling.choose_token(SCORES, NOTHING_SEEN, options, rng) == 0
    assert rng.bit_generator.state["state"]["counter"].tolist() == before


def test_rows_and_seeds_have_streams_of_their_own() -> None:
    draws = [sampling.row_generator(seed, row).random() for seed in (0, 1) for row in (0, 1)]
    assert len(set(draws)) == 4
    assert draws[0] == sampling.row_generator(0, 0).random()


def test_no_stop_token_comes_before_the_least_number_of_new_tokens() -> None:
    scores, rng = np.array([2.0, 1.5, 1.0], np.float32), sampling.row_generator(0, 0)
    options = GenerationOptions(min_new_tokens=3, eos_token_id=(0, 2))
    chosen = [sampling.choose_token(scores, NOTHING_SEEN, options, rng, new_tokens=count) for count in range(5)]
    assert chosen == [1, 1, 1, 0, 0]
    assert scores.tolist() == [2.0, 1.5, 1.0], "the given scores were changed"


def test_a_hidden_token_is_never_drawn() -> None:
    scores = np.array([-np.inf, 0.0, -np.inf], np.float32)
    rng = sampling.row_generator(0, 0)
    assert {sampling.draw(scores, rng) for _ in range(50)} == {1}


@pytest.mark.parametrize("temperature", [5e-324, 1e-46, 1e-39, 1e-30, 1e-6])
def test_next_to_no_temperature_takes_the_best(temperature: float) -> None:
    scores, rng = np.array([3.0, -1e30, 2.9, -np.inf, -50.0], np.float32), sampling.row_generator(0, 0)
    options = GenerationOptions(do_sample=True, temperature=temperature, top_k=4, top_p=0.99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {sampling.choose_token(scores, NOTHING_SEEN, options, rng) for _ in range(20)} == {0}


@pytest.mark.parametrize("temperature", [1e30, 1e39, 1e300])
def test_any_temperature_leaves_hidden_tokens_out(temperature: float) -> None:
    scores, rng = np.array([3.0, -2.0, 2.9], np.float32), sampling.row_generator(0, 0)
    options = GenerationOptions(do_sample=True, temperature=temperature, min_new_tokens=1, eos_token_id=0)
    chosen = {sampling.choose_token(scores, NOTHING_SEEN, options, rng) for _ in range(60)}
    assert chosen == {1, 2}


def test_a_stop_token_outside_of_the_vocabulary_has_no_effect() -> None:
    # A tokenizer's stop tokens beside a model with a small vocabulary; -1 stands for none in some files.
    scores, rng = np.array([1.0, 1.5, 2.0], np.float32), sampling.row_generator(0, 0)
    options = GenerationOptions(min_new_tokens=3, eos_token_id=(151645, -1))
    assert sampling.choose_token(scores, NOTHING_SEEN, options, rng) == 2


def test_a_greater_top_k_than_the_vocabulary_and_all_of_top_p_keep_everything() -> None:
    options = GenerationOptions(do_sample=True, top_k=10**9, top_p=1.0, temperature=1e6)
    rng = sampling.row_generator(2, 0)
    assert {sampling.choose_token(SCORES, NOTHING_SEEN, options, rng) for _ in range(200)} == {0, 1, 2, 3, 4}
