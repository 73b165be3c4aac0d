"""Which cases are run: all legal layouts, a covering selection of everything else, or every combination. Pure.

`python tests/layouts/selection.py` prints the selection; it is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise, product

from cases import FREEZES, MIXES, RECOMPUTE, REDUCTIONS, Case
from qvl_core.layout_rules import legal_tensor_degrees
from qvl_core.specs.model_spec import ModelSpec
from specs import SPECS, TINY

MOST_RANKS = 8
CURVE_STEPS = 20
ACCUMULATIONS = (1, 3)
# What two runs of the selection must agree on, so a constant.
_SEED = 4
# Candidates looked at for each case of the covering selection; more make it a little smaller.
_CANDIDATES = 60

Degrees = tuple[int, int, int]
Stages = tuple[tuple[int, ...], tuple[int, ...]]


def legal_degrees(spec: ModelSpec, most: int = MOST_RANKS) -> list[Degrees]:
    """List every (tp, pp, dp) of at most `most` ranks for which the model has a legal layout."""
    layers = spec.vision.depth + spec.text.num_layers
    return [
        (tp, pp, dp)
        for tp in legal_tensor_degrees(spec)
        for pp in range(1, min(layers, most) + 1)
        for dp in range(1, most + 1)
        if tp * pp * dp <= most
    ]


def legal_stages(spec: ModelSpec, pp: int) -> list[Stages]:
    """List every pair of stage lists: vision on the first stages, text on the last, on one stage perhaps both."""
    found: list[Stages] = []
    for vision_stages in range(1, pp + 1):
        for text_stages in range(1, pp + 1):
            if vision_stages + text_stages not in (pp, pp + 1):
                continue
            for vision in _compositions(spec.vision.depth, vision_stages):
                for text in _compositions(spec.text.num_layers, text_stages):
                    found.append(((*vision, *[0] * (pp - vision_stages)), (*[0] * (pp - text_stages), *text)))
    return found


def split_kind(vision_stages: Sequence[int], text_stages: Sequence[int]) -> str:
    """Name what is special about two stage lists; a covering selection has each with everything else."""
    is_spread = sum(map(bool, vision_stages)) > 1
    is_shared = any(vision and text for vision, text in zip(vision_stages, text_stages, strict=True))
    if len(vision_stages) == 1:
        return "one stage"
    return f"vision {'spread' if is_spread else 'on one stage'}, {'with' if is_shared else 'without'} text beside it"


def selection() -> list[Case]:
    """List the cases of a CI run: covering cases, curves for all degrees, and other models."""
    return [*curves(), *covering(), *other_models(), *adapted()]


def curves() -> list[Case]:
    """List a run of twenty steps for each legal (tp, pp, dp) of the tiny model; the rest goes round."""
    chance = random.Random(_SEED)
    found = []
    for number, (tp, pp, dp) in enumerate(legal_degrees(TINY)):
        vision_stages, text_stages = chance.choice(legal_stages(TINY, pp))
        found.append(
            Case(
                tp=tp,
                pp=pp,
                dp=dp,
                vision_stages=vision_stages,
                text_stages=text_stages,
                zero1=number % 3 == 1 if dp == 1 else number % 3 != 1,
                recompute=RECOMPUTE[number % 5] if number % 2 else "none",
                # At least two micro batches, so that a pipeline has two under way.
                accumulation=2 if dp == 1 else 1,
                # One kind of batches for each number of replicas, so that many curves share a single process. Text
                # costs half of an image.
                mix="images" if dp == 1 else "mixed" if dp == 2 else "sparse",
                freeze=FREEZES[number % 7] if dp == 1 and pp in (2, 3, 5, 7) else (),
                steps=CURVE_STEPS,
            )
        )
    return found


def few_curves() -> list[Case]:
    """List the curves that run when nobody asks for all: replicas, replicas of stages, and all three together."""
    chosen = {(1, 1, 6), (1, 4, 2), (2, 2, 2)}
    return [case for case in curves() if (case.tp, case.pp, case.dp) in chosen]


@cache
def covering() -> tuple[Case, ...]:
    """List cases in which every pair of values appears, and every legal (tp, pp, dp) of the tiny model at least once.

    Greedy, from candidates drawn with a fixed seed: each time the one with most new pairs for its work.
    """
    chance = random.Random(_SEED)
    degrees = legal_degrees(TINY)
    missing = set().union(*(_pairs(case) for case in _all_pairs_once()))
    found: list[Case] = []
    while missing or len(found) < len(degrees):
        # The first round visits all degrees.
        place = degrees[len(found)] if len(found) < len(degrees) else None
        candidates = [_drawn(chance, place or chance.choice(degrees)) for _ in range(_CANDIDATES)]
        best = max(candidates, key=lambda case: len(_pairs(case) & missing) / (8 + case.micro_batches * case.tp))
        missing -= _pairs(best)
        found.append(best)
    return tuple(found)


def other_models() -> list[Case]:
    """List cases of other shapes and head counts, with up to eight tensor ranks; half of them train for a while."""
    chance = random.Random(_SEED)
    chosen = {
        "four": [(4, 1, 1), (4, 2, 1), (4, 1, 2), (2, 3, 1), (1, 6, 1)],
        "eight": [(8, 1, 1), (8, 1, 1), (4, 2, 1), (2, 4, 1), (2, 2, 2)],
        "deep": [(1, 8, 1), (1, 4, 2), (1, 2, 3)],
        "flat": [(2, 4, 1), (2, 1, 4), (1, 6, 1)],
    }
    found = []
    for spec, places in chosen.items():
        for number, place in enumerate(places):
            case = _drawn(chance, place, spec)
            found.append(replace(case, steps=5, mix="mixed", freeze=()) if number % 2 else replace(case, freeze=()))
    return found


def adapted() -> list[Case]:
    """List cases with adapters: on every component, each alone, and in the layouts that cut or share something else."""
    everywhere = {"adapters": ("vision", "merger", "text"), "accumulation": 2}
    whole, halves = {"vision_stages": (4,), "text_stages": (4,)}, {"vision_stages": (4, 0), "text_stages": (1, 3)}
    return [
        Case(**whole, **everywhere, tp=2, zero1=True),
        Case(**whole, **everywhere, dp=2, zero1=True, recompute="full"),
        Case(**halves, **everywhere, pp=2, recompute="full", mix="sparse"),
        Case(**halves, **everywhere, tp=2, pp=2, dp=2, zero1=True, steps=CURVE_STEPS),
        Case(vision_stages=(1, 3, 0, 0), text_stages=(0, 0, 3, 1), adapters=("vision", "text"), pp=4, accumulation=3),
        Case(**halves, adapters=("text",), tp=2, pp=2, recompute="text", reduction="sample"),
        Case(**halves, adapters=("vision",), tp=2, pp=2, recompute="vision", accumulation=3),
        Case(**halves, adapters=("merger",), pp=2, dp=2, mix="unlabelled"),
        Case(spec="four", vision_stages=(3,), text_stages=(3,), **everywhere, tp=4, mix="videos"),
        Case(spec="eight", vision_stages=(2,), text_stages=(2,), **everywhere, tp=8, steps=5),
        Case(spec="flat", vision_stages=(1, 0), text_stages=(0, 5), **everywhere, tp=2, pp=2, dp=2, steps=5),
    ]


def broken() -> list[Case]:
    """List cases that are wrong on purpose, each in one way that a comparison has to notice."""
    whole, halves = {"vision_stages": (4,), "text_stages": (4,)}, {"vision_stages": (4, 0), "text_stages": (1, 3)}
    return [
        Case(**whole, tp=2, broken="tensor_sum"),
        Case(**whole, dp=2, broken="data_sum"),
        Case(**whole, dp=2, zero1=True, broken="data_sum"),
        Case(**halves, pp=2, broken="tied_sum"),
        Case(**whole, tp=2, broken="factor_sum", adapters=("vision", "merger", "text")),
        Case(**whole, tp=2, broken="gradient"),
        Case(**halves, pp=2, broken="missing"),
    ]


def every() -> Iterator[Case]:
    """Yield every combination of the tiny model, in an order that mixes all values; loss reductions go round."""
    combinations_of_all = [
        (place, stages, rest)
        for place in legal_degrees(TINY)
        for stages in legal_stages(TINY, place[1])
        for rest in product((False, True), RECOMPUTE, ACCUMULATIONS, MIXES, FREEZES)
    ]
    random.Random(_SEED).shuffle(combinations_of_all)
    for number, ((tp, pp, dp), stages, rest) in enumerate(combinations_of_all):
        zero1, recompute, accumulation, mix, freeze = rest
        yield Case(
            tp=tp,
            pp=pp,
            dp=dp,
            vision_stages=stages[0],
            text_stages=stages[1],
            zero1=zero1,
            recompute=recompute,
            accumulation=accumulation,
            mix=mix,
            freeze=freeze,
            reduction=REDUCTIONS[number % 3],
        )


def _drawn(chance: random.Random, place: Degrees, spec: str = "tiny") -> Case:
    tp, pp, dp = place
    vision_stages, text_stages = chance.choice(legal_stages(SPECS[spec], pp))
    return Case(
        spec=spec,
        tp=tp,
        pp=pp,
        dp=dp,
        vision_stages=vision_stages,
        text_stages=text_stages,
        zero1=chance.random() < 0.5,
        recompute=chance.choice(RECOMPUTE),
        accumulation=chance.choice(ACCUMULATIONS),
        mix=chance.choice(MIXES),
        freeze=chance.choice(FREEZES),
        reduction=chance.choice(REDUCTIONS),
    )


def _values(case: Case) -> dict[str, object]:
    return {
        "tp": case.tp,
        "pp": case.pp,
        "dp": case.dp,
        "split": split_kind(case.vision_stages, case.text_stages),
        "zero1": case.zero1,
        "recompute": case.recompute,
        "accumulation": case.accumulation,
        "mix": case.mix,
        "freeze": case.freeze,
        "reduction": case.reduction,
    }


def _pairs(case: Case) -> set[tuple[object, ...]]:
    return {(*left, *right) for left, right in combinations(_values(case).items(), 2)}


def _all_pairs_once() -> Iterator[Case]:
    """Yield cases that have, together, every pair that any legal case of the tiny model has."""
    layouts = {
        (place, split_kind(*stages)): stages for place in legal_degrees(TINY) for stages in legal_stages(TINY, place[1])
    }
    rest = [(False, True), RECOMPUTE, ACCUMULATIONS, MIXES, FREEZES, REDUCTIONS]
    for ((tp, pp, dp), _), (vision_stages, text_stages) in layouts.items():
        for left, right in combinations(range(len(rest)), 2):
            for one, other in product(rest[left], rest[right]):
                zero1, recompute, accumulation, mix, freeze, reduction = (
                    one if i == left else other if i == right else values[0] for i, values in enumerate(rest)
                )
                yield Case(
                    tp=tp,
                    pp=pp,
                    dp=dp,
                    vision_stages=vision_stages,
                    text_stages=text_stages,
                    zero1=zero1,
                    recompute=recompute,
                    accumulation=accumulation,
                    mix=mix,
                    freeze=freeze,
                    reduction=reduction,
                )


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as a sum of `parts` numbers from 1."""
    for cuts in combinations(range(1, total), parts - 1):
        ends = (0, *cuts, total)
        yield tuple(after - before for before, after in pairwise(ends))


if __name__ == "__main__":
    for _case in selection():
        print(_case.name)
