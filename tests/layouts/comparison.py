"""Compare what the ranks of a case have with what a single process has. numpy only.

Per parameter: the norm of the difference over the norm of the reference, over the whole parameter. Where several ranks
hold the same elements, each of them has to be right. A gradient that is zero in the reference has to be zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from cases import Case
from numpy.typing import NDArray
from qvl_core.params import Parameter, parameter_table
from qvl_core.weights.sharding import cut
from specs import SPECS

# What issue and documentation promise. fp32 sums in another order differ by some 1e-7 of the largest term.
GRADIENT_LIMIT = 1e-5
# Of the key biases of models as deep as the shipped ones: softmax is nearly blind to them, so that their gradients are
# what is left of large terms that cancel. One unit in the last place of the weights moves them by 4e-6 to 1.2e-5 in the
# tiny model already; 72B's 80 layers at tp 2 were seen to differ by 1.2e-5.
DEEP_KEY_BIAS_LIMIT = 3e-5
_DEEP = 48
LOSS_LIMIT = 1e-5
CURVE_LIMIT = 1e-4

Squares = dict[str, tuple[float, float]]


class _Validated(TypedDict, total=False):
    validation: list[float]  # loss and tokens before the first step, of the tiny models


class RankResult(_Validated):
    """What a rank reports, as JSON. `squares` has, per parameter, those of the difference and of the reference."""

    place: tuple[int, int, int]  # stage, replica, tensor slice
    losses: list[float]
    norms: list[float]
    squares: Squares
    digests: dict[str, int]


class Reference(_Validated):
    """What the single process reports, besides its gradients."""

    losses: list[float]
    norms: list[float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far a case is from its reference: the worst parameter and the errors; `failures` is empty where all holds."""

    worst_name: str
    worst_error: float
    loss_error: float
    norm_error: float
    curve_error: float
    failures: tuple[str, ...]

    def __str__(self) -> str:
        head = (
            f"worst gradient {self.worst_name} {self.worst_error:.1e}, first loss {self.loss_error:.1e}, gradient norm "
            f"{self.norm_error:.1e}, curve {self.curve_error:.1e}"
        )
        return "\n".join((head, *self.failures))


def squares_of(
    case: Case, gradients: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]], tensor_rank: int
) -> Squares:
    """Give the squares of a rank's gradients against its part of the reference's."""
    rules = {row.name: row.shard for row in case.trained_rows(whole=True)}
    found: Squares = {}
    for name, gradient in gradients.items():
        if name not in reference:
            found[name] = (math.inf, 0.0)
            continue
        wanted = cut(reference[name], rules[name], tp=case.tp, rank=tensor_rank).astype(np.float64)
        if wanted.shape != gradient.shape:
            found[name] = (math.inf, 0.0)
            continue
        found[name] = (float(((gradient - wanted) ** 2).sum()), float((wanted**2).sum()))
    return found


def judge(case: Case, ranks: Sequence[RankResult], reference: Reference) -> Verdict:
    """Compare a case's ranks, all of them, with its reference."""
    failures: list[str] = []
    errors = _gradient_errors(case, ranks, failures)
    worst = max(errors, key=lambda name: errors[name], default="")
    for name, error in sorted(errors.items(), key=lambda item: -item[1])[:5]:
        is_deep = len(case.text_stages) > 1 and sum(case.text_stages) >= _DEEP
        limit = DEEP_KEY_BIAS_LIMIT if is_deep and name.endswith("k_proj.bias") else GRADIENT_LIMIT
        if not error <= limit:
            failures.append(f"gradient of {name} differs by {error:.2e} of its norm; {limit:.0e} is allowed")
    steps = range(case.steps)
    losses = [max(_relative(rank["losses"][i], reference["losses"][i]) for rank in ranks) for i in steps]
    norm = max(_relative(rank["norms"][0], reference["norms"][0]) for rank in ranks)
    if not losses[0] <= LOSS_LIMIT:
        failures.append(f"first loss {ranks[0]['losses'][0]!r}, the single process has {reference['losses'][0]!r}")
    if not norm <= GRADIENT_LIMIT:
        failures.append(f"gradient norm {ranks[0]['norms'][0]!r}, the single process has {reference['norms'][0]!r}")
    if not max(losses) <= CURVE_LIMIT:
        failures.append(f"losses {ranks[0]['losses']}, the single process has {reference['losses'][: case.steps]}")
    if any(rank["losses"] != ranks[0]["losses"] or rank["norms"] != ranks[0]["norms"] for rank in ranks):
        failures.append("the ranks do not agree to the bit on loss and gradient norm")
    failures += _validations_that_differ(ranks, reference)
    failures += _copies_that_differ(case, ranks)
    return Verdict(
        worst_name=worst,
        worst_error=errors.get(worst, 0.0),
        loss_error=losses[0],
        norm_error=norm,
        curve_error=max(losses),
        failures=tuple(failures),
    )


def _gradient_errors(case: Case, ranks: Sequence[RankResult], failures: list[str]) -> dict[str, float]:
    """Give the relative error of each parameter; notes ranks that have not exactly the gradients they should have."""
    rows = case.trained_rows()
    for rank in ranks:
        wanted = [row.name for row in rows if rank["place"][0] in row.stages]
        if list(rank["squares"]) != wanted:
            wrong = sorted(set(wanted) ^ set(rank["squares"])) or ["their order"]
            failures.append(f"gradients at {rank['place']} are not those of the parameter table: {wrong[:5]}")
    return {row.name: _error(row, ranks) for row in rows}


def _error(row: Parameter, ranks: Sequence[RankResult]) -> float:
    """Give the largest error of any copy of a parameter, each put together from its tensor ranks."""
    copies: dict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list)
    for rank in ranks:
        stage, replica, tensor_rank = rank["place"]
        if row.name in rank["squares"]:
            # Of a replicated parameter, each tensor rank has a copy of its own.
            copy = (stage, replica, tensor_rank) if row.shard == "replicate" else (stage, replica)
            copies[copy].append(rank["squares"][row.name])
    return max((_ratio(sum(d for d, _ in parts), sum(w for _, w in parts)) for parts in copies.values()), default=0.0)


def _ratio(difference: float, wanted: float) -> float:
    # Infinity, not NaN: a largest value taken over a NaN depends on where it stands.
    if not math.isfinite(difference) or (wanted == 0.0 and difference != 0.0):
        return math.inf
    return math.sqrt(difference / wanted) if wanted else 0.0


def _relative(value: float, wanted: float) -> float:
    if not math.isfinite(value) or (wanted == 0.0 and value != 0.0):
        return math.inf
    return abs(value - wanted) / abs(wanted) if wanted else 0.0


def _validations_that_differ(ranks: Sequence[RankResult], reference: Reference) -> list[str]:
    """Name a validation loss that is not the single process's, taken over as many tokens."""
    if "validation" not in reference:
        return []
    wanted, tokens = reference["validation"]
    found = [rank["validation"] for rank in ranks]
    if all(one == found[0] for one in found) and found[0][1] == tokens and _relative(found[0][0], wanted) <= LOSS_LIMIT:
        return []
    return [f"validation loss and tokens {found}, the single process has {reference['validation']}"]


def _copies_that_differ(case: Case, ranks: Sequence[RankResult]) -> list[str]:
    """Name parameters whose copies on several ranks are not the same to the bit after the last step."""
    table = {row.name: row for row in (*parameter_table(SPECS[case.spec]), *case.trained_rows(whole=True))}
    copies: dict[tuple[str, int], set[int]] = defaultdict(set)
    for rank in ranks:
        for name, digest in rank["digests"].items():
            part = 0 if table[name].shard == "replicate" else rank["place"][2]
            copies[name, part].add(digest)
    differing = sorted({name for (name, _), digests in copies.items() if len(digests) > 1})
    if not differing:
        return []
    return [f"{len(differing)} parameters differ between ranks that hold copies, the first is {differing[0]}"]
