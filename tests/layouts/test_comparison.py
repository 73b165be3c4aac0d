"""The comparison finds what is wrong, and nothing where all is right. Numbers only, no processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from comparison import RankResult, Reference, judge, squares_of
from qvl_core.model.initialize import random_weights
from qvl_core.parallel.mesh import coordinate_of
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.weights.sharding import cut
from specs import SPECS

CASE = Case(tp=2, pp=2, dp=2, vision_stages=(4, 0), text_stages=(1, 3), steps=2)
REFERENCE: Reference = {"losses": [6.0, 5.0], "norms": [1.0, 2.0], "validation": [3.0, 40]}
GRADIENTS = dict(random_weights(SPECS["tiny"], 1))
CUT, WHOLE = "model.layers.3.mlp.up_proj.weight", "model.norm.weight"
# On the last stage, first replica, second tensor rank.
RANK = 5


def _ranks(changed: dict[str, Any] | None = None) -> list[RankResult]:
    """Give the results of ranks that have just what the single process has, but for `changed` gradients on RANK."""
    found: list[RankResult] = []
    table = parameter_table(SPECS["tiny"], CASE.layout)
    for rank in range(CASE.world_size):
        place = coordinate_of(rank, CASE.layout)
        gradients = {
            row.name: cut(GRADIENTS[row.name], row.shard, tp=2, rank=place.tp)
            for row in table
            if place.pp in row.stages
        }
        gradients.update(changed or {} if rank == RANK else {})
        found.append(
            {
                "place": (place.pp, place.dp, place.tp),
                "losses": [6.0, 5.0],
                "norms": [1.0, 2.0],
                "validation": [3.0, 40],
                "squares": squares_of(CASE, gradients, GRADIENTS, place.tp),
                "digests": {name: place.tp if name == CUT else 0 for name in gradients},
            }
        )
    return found


def test_finds_nothing_where_all_is_equal() -> None:
    verdict = judge(CASE, _ranks(), REFERENCE)
    assert verdict.failures == ()
    assert verdict.worst_error == verdict.curve_error == 0.0


@pytest.mark.parametrize(("change", "is_found"), [(2e-5, True), (0.5e-5, False)])
@pytest.mark.parametrize("name", [WHOLE, CUT])
def test_finds_a_gradient_that_is_off_by_more_than_the_limit_on_one_rank(
    name: str, change: float, is_found: bool
) -> None:
    own = cut(GRADIENTS[name], "column" if name == CUT else "replicate", tp=2, rank=1).astype(np.float64)
    # Half of the squares of a cut tensor are the other rank's, which is right.
    factor = change * (np.sqrt(2) if name == CUT else 1)
    verdict = judge(CASE, _ranks({name: own * (1 + factor)}), REFERENCE)
    assert verdict.worst_name == name
    assert verdict.worst_error == pytest.approx(change, rel=0.2)
    assert any(name in failure for failure in verdict.failures) is is_found


def test_finds_the_part_of_another_rank() -> None:
    other = cut(GRADIENTS[CUT], "column", tp=2, rank=0)
    assert judge(CASE, _ranks({CUT: other}), REFERENCE).worst_error > 1


def test_finds_a_gradient_that_should_be_zero() -> None:
    zero = {name: np.zeros_like(array) if name == WHOLE else array for name, array in GRADIENTS.items()}
    squares = squares_of(CASE, {WHOLE: np.full(64, 1e-30)}, zero, 0)
    ranks = _ranks()
    ranks[RANK]["squares"][WHOLE] = squares[WHOLE]
    assert judge(CASE, ranks, REFERENCE).worst_error == np.inf


def test_finds_a_gradient_that_is_not_a_number() -> None:
    assert judge(CASE, _ranks({WHOLE: np.full(64, np.nan)}), REFERENCE).failures


def test_finds_a_missing_and_a_surplus_gradient() -> None:
    ranks = _ranks()
    del ranks[RANK]["squares"][EMBEDDING]
    assert "embed_tokens" in judge(CASE, ranks, REFERENCE).failures[0]
    surplus = _ranks({"visual.merger.ln_q.weight": GRADIENTS["visual.merger.ln_q.weight"]})
    assert "merger.ln_q" in judge(CASE, surplus, REFERENCE).failures[0]


def test_finds_a_gradient_of_another_shape() -> None:
    assert judge(CASE, _ranks({CUT: GRADIENTS[CUT]}), REFERENCE).failures


@pytest.mark.parametrize(
    ("key", "values", "text"),
    [
        ("losses", [6.0003, 5.0], "first loss"),
        ("losses", [6.0, 5.001], "losses"),
        ("norms", [1.001, 2.0], "gradient norm"),
        ("losses", [float("nan"), 5.0], "first loss"),
        ("losses", [6.0, float("nan")], "losses"),
        ("validation", [3.0001, 40], "validation"),
        ("validation", [3.0, 41], "validation"),
        ("validation", [float("nan"), 40], "validation"),
    ],
)
def test_finds_a_loss_or_norm_that_is_off(key: str, values: list[float], text: str) -> None:
    ranks = _ranks()
    for rank in ranks:
        rank[key] = values  # type: ignore[literal-required]
    assert judge(CASE, ranks, REFERENCE).failures[0].startswith(text)


def test_finds_ranks_that_disagree_by_a_bit() -> None:
    ranks = _ranks()
    ranks[RANK]["losses"] = [6.0, float(np.nextafter(5.0, 6.0))]
    assert "do not agree" in judge(CASE, ranks, REFERENCE).failures[0]
    ranks = _ranks()
    ranks[RANK]["validation"] = [float(np.nextafter(3.0, 6.0)), 40]
    assert "validation" in judge(CASE, ranks, REFERENCE).failures[0]


@pytest.mark.parametrize("name", [WHOLE, CUT, EMBEDDING])
def test_finds_copies_that_differ_by_a_bit(name: str) -> None:
    ranks = _ranks()
    ranks[RANK]["digests"][name] = 77
    assert name in judge(CASE, ranks, REFERENCE).failures[0]
