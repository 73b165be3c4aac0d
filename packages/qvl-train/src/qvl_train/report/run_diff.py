"""What differs between two runs: recipe, data, weights, versions, environment, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qvl_train.report.meanings import Effect, Meaning, recipe_meaning, version_meaning
from qvl_train.report.metrics_file import MetricsFile
from qvl_train.report.outcomes import Course, Outcome, course, outcomes, scores
from qvl_train.report.run_history import RunFacts

GROUPS = ("recipe", "data", "weights", "versions", "environment")
ABSENT = "–"
_DATA, _WEIGHTS, _ENVIRONMENT = ("data",), ("weights",), ("env", "launch")
_MACHINE = ("python", "platform")
# What somebody has measured, and what a recipe was written from: nothing of a run comes from them.
_NO_SETTINGS = ("expected", "extends")
_HASH_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same; `ours` and `theirs` as text, `ABSENT` where a side does not have it."""

    group: str
    key: str
    ours: str
    theirs: str
    meaning: Meaning


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """Two runs compared. `notices` are to know, and not `is_complete` is what could not be compared as a whole.

    `asks` where one of the runs evaluates or infers instead of training.
    """

    differences: tuple[Difference, ...]
    outcomes: tuple[Outcome, ...]
    course: Course | None
    notices: tuple[str, ...]
    is_complete: bool = True
    asks: bool = False

    def of(self, group: str) -> list[Difference]:
        """Give the differences of a group, the gravest first."""
        order = list(Effect)
        return sorted(
            (one for one in self.differences if one.group == group), key=lambda one: order.index(one.meaning.effect)
        )

    @property
    def verdict(self) -> str:
        """Say in a sentence whether the runs compute the same."""
        counted = (Effect.TENSORS, Effect.NUMBERS, *((Effect.ANSWERS,) if self.asks else ()))
        grave = [one for one in self.differences if one.meaning.effect in counted]
        doubtful = [one for one in self.differences if one.meaning.effect in (Effect.PERHAPS, Effect.UNKNOWN)]
        unsure = "; not everything could be compared" if not self.is_complete else ""
        if grave:
            named = ", ".join(dict.fromkeys(one.key for one in grave[:4])) + (", …" if len(grave) > 4 else "")
            return f"The runs compute different things, by {_counted(len(grave))}: {named}{unsure}."
        if doubtful:
            return f"The runs may come to different numbers, by {_counted(len(doubtful))}{unsure}."
        if self.differences:
            return f"Nothing differs that changes what is computed, beyond rounding{unsure}."
        return f"Nothing differs that a run records{unsure}."


def diff_runs(ours: RunFacts, theirs: RunFacts, our_metrics: MetricsFile, their_metrics: MetricsFile) -> RunDiff:
    """Compare two runs by what their folders say."""
    found = [*_recipe(ours, theirs), *_hashes(ours, theirs), *_versions(ours, theirs), *_history(ours, theirs)]
    notices = [f"A: {text}" for text in ours.notices] + [f"B: {text}" for text in theirs.notices]
    if ours.run_id and ours.run_id == theirs.run_id:
        notices.append(f"Both folders are of the same run, {ours.run_id}.")
    return RunDiff(
        differences=tuple(found),
        outcomes=(*outcomes(our_metrics, their_metrics), *scores(ours, theirs)),
        course=course(our_metrics, their_metrics),
        notices=tuple(notices),
        is_complete=not (ours.notices or theirs.notices),
        asks=any(one.task not in ("", "sft") for one in (ours, theirs)),
    )


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the leaves of tables, and of lists of tables, with their dotted keys: `data.sources[0].path`."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            for place, one in enumerate(value):
                yield from flatten(one, f"{name}[{place}].")
        else:
            yield name, value


def _recipe(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    if not (ours.recipe and theirs.recipe):
        return
    one, other = dict(flatten(ours.recipe)), dict(flatten(theirs.recipe))
    _join_lonely(one, other)
    _join_lonely(other, one)
    for key in dict.fromkeys([*one, *other]):
        table = key.split(".")[0]
        # JSON tells 1 from 1.0 and from true, which are equal in Python.
        if table in _NO_SETTINGS or _text(one, key) == _text(other, key):
            continue
        group = next(
            (
                name
                for name, tables in (("data", _DATA), ("weights", _WEIGHTS), ("environment", _ENVIRONMENT))
                if table in tables
            ),
            "recipe",
        )
        yield Difference(
            group=group, key=key, ours=_text(one, key), theirs=_text(other, key), meaning=recipe_meaning(key)
        )


def _join_lonely(table: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Make one entry of an element of a list, such as `data.sources[1]`, that only one side has."""
    elements: dict[str, dict[str, Any]] = {}
    for key in table:
        if "]." in key:
            name, _, rest = key.partition("].")
            elements.setdefault(f"{name}]", {})[rest] = table[key]
    for name, values in elements.items():
        if not any(key.startswith(f"{name}.") for key in other):
            for rest in values:
                del table[f"{name}.{rest}"]
            table[name] = values


def _hashes(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    for name in dict.fromkeys([*ours.hashes, *theirs.hashes]):
        one, other = ours.hashes.get(name), theirs.hashes.get(name)
        if one == other:
            continue
        group = name if name in GROUPS else "data"
        yield Difference(
            group=group,
            key=f"{name} hash",
            ours=_digest(one),
            theirs=_digest(other),
            meaning=_hash_meaning(name, one, other),
        )


def _hash_meaning(name: str, one: object, other: object) -> Meaning:
    if one is None or other is None:
        return Meaning(effect=Effect.UNKNOWN, text="only one of the runs has recorded it")
    if name == "weights":
        return Meaning(effect=Effect.NUMBERS, text="training starts from other weights, whatever their path is")
    return Meaning(
        effect=Effect.NUMBERS,
        text="other records or media, or others of them are used; where paths are the same, the files have changed",
    )


def _versions(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    one, other = ours.known_versions, theirs.known_versions
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            yield Difference(
                group="environment" if name in _MACHINE else "versions",
                key=name,
                ours=str(one.get(name, ABSENT)),
                theirs=str(other.get(name, ABSENT)),
                meaning=version_meaning(name),
            )


def _history(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    one, other = _continued(ours), _continued(theirs)
    if one != other:
        meaning = Meaning(effect=Effect.PERHAPS, text="a run was continued with changed settings, data or versions")
        yield Difference(group="recipe", key="continued", ours=one, theirs=other, meaning=meaning)


def _continued(facts: RunFacts) -> str:
    return " | ".join(f"after step {one.step}: {'; '.join(one.changes)}" for one in facts.continued) or ABSENT


def _text(table: Mapping[str, Any], key: str) -> str:
    if key not in table:
        return ABSENT
    value = table[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _digest(value: object) -> str:
    if value is None:
        return ABSENT
    *head, digest = str(value).split(":")
    return ":".join([*head, digest[:_HASH_DIGITS]])


def _counted(number: int) -> str:
    return "1 difference" if number == 1 else f"{number:,} differences"
