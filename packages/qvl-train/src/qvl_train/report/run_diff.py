"""What differs between two runs: recipe, data, weights, versions, environment, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvl_train.report.data_diff import (
    aligned_sources,
    file_differences,
    hash_differences,
    moved_meaning,
    order_difference,
)
from qvl_train.report.difference import ABSENT, Difference, shortened
from qvl_train.report.meanings import (
    Effect,
    Meaning,
    code_meaning,
    machine_meaning,
    recipe_meaning,
    variable_meaning,
    version_meaning,
)
from qvl_train.report.metrics_file import MetricsFile
from qvl_train.report.outcomes import Course, Outcome, course, outcomes, scores
from qvl_train.report.run_facts import RunFacts
from qvl_train.report.run_history import RunHistory

# By the recipe's table; what is in none of these is of the group "recipe".
_GROUP_OF = {"data": "data", "weights": "weights", "env": "environment", "launch": "environment"}
_SOURCE = "data.sources["
_MACHINE = ("python", "platform")
_MOST_NAMED = 4
# What somebody has measured, and what a recipe was written from: nothing of a run comes from them.
_NO_SETTINGS = ("expected", "extends")


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """Two runs compared. `notices` are to know, and not `is_complete` is what could not be compared as a whole.

    `asks` where one of the runs evaluates or infers instead of training. `unknown` names the runs without a record.
    """

    differences: tuple[Difference, ...]
    outcomes: tuple[Outcome, ...]
    course: Course | None
    notices: tuple[str, ...]
    is_complete: bool = True
    asks: bool = False
    unknown: tuple[str, ...] = ()

    def of(self, group: str) -> list[Difference]:
        """Give the differences of a group, the gravest first."""
        order = list(Effect)
        return sorted(
            (one for one in self.differences if one.group == group), key=lambda one: order.index(one.meaning.effect)
        )

    @property
    def verdict(self) -> str:
        """Say in a sentence whether the runs compute the same."""
        if self.unknown:
            was = "was" if len(self.unknown) == 1 else "were"
            return f"What {' and '.join(self.unknown)} {was} made with is not known: only numbers can be compared."
        changing = (Effect.TENSORS, Effect.NUMBERS, *((Effect.ANSWERS,) if self.asks else ()))
        grave = [one for one in self.differences if one.meaning.effect in changing]
        doubtful = [one for one in self.differences if one.meaning.effect in (Effect.PERHAPS, Effect.UNKNOWN)]
        unsure = "; not everything could be compared" if not self.is_complete else ""
        if grave:
            return f"The runs compute different things, by {_named(grave)}{unsure}."
        if doubtful:
            return f"The runs may come to different numbers, by {_named(doubtful)}{unsure}."
        if self.differences:
            return f"Nothing differs that changes what is computed, beyond rounding{unsure}."
        return f"Nothing differs that a run records{unsure}."


def diff_runs(ours: RunHistory, theirs: RunHistory, names: tuple[str, str] = ("A", "B")) -> RunDiff:
    """Compare two runs by what their folders say; `names` are what sentences call them by."""
    return _diff(ours.facts, theirs.facts, ours.metrics, theirs.metrics, names)


def _diff(
    ours: RunFacts, theirs: RunFacts, our_metrics: MetricsFile, their_metrics: MetricsFile, names: tuple[str, str]
) -> RunDiff:
    unknown = tuple(name for name, facts in zip(names, (ours, theirs), strict=True) if not facts.has_record)
    found = [] if unknown else list(_differences(ours, theirs, names))
    told = ((*ours.notices, *our_metrics.notices()), (*theirs.notices, *their_metrics.notices()))
    notices = [f"{name}: {text}" for name, texts in zip(names, told, strict=True) for text in texts]
    if not unknown:
        notices += _unrecorded(ours, theirs, names)
    if ours.run_id and ours.run_id == theirs.run_id:
        notices.append(f"Both folders are of the same run, {ours.run_id}.")
    return RunDiff(
        differences=tuple(found),
        outcomes=(*outcomes(our_metrics, their_metrics), *scores(ours, theirs)),
        course=course(our_metrics, their_metrics),
        notices=tuple(notices),
        is_complete=not (ours.notices or theirs.notices),
        asks=any(one.task not in ("", "sft") for one in (ours, theirs)),
        unknown=unknown,
    )


def _differences(ours: RunFacts, theirs: RunFacts, names: tuple[str, str]) -> Iterator[Difference]:
    yield from _recipe(ours, theirs)
    yield from hash_differences(ours, theirs)
    yield from file_differences(ours.files, theirs.files, names)
    yield from _versions(ours, theirs)
    yield from _code(ours, theirs)
    yield from _environment(ours, theirs)
    yield from _history(ours, theirs)


def _unrecorded(ours: RunFacts, theirs: RunFacts, names: tuple[str, str]) -> Iterator[str]:
    """Say what cannot be compared because one of the runs was written by an earlier version."""
    for name, facts, other in ((names[0], ours, theirs), (names[1], theirs, ours)):
        lacks = [f"its {table}" for table in ("machine", "code") if getattr(other, table) and not getattr(facts, table)]
        if lacks:
            yield f"{name} has not recorded {' and '.join(lacks)}: an earlier version wrote it."


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
    our_sources, their_sources = _sources(ours.recipe), _sources(theirs.recipe)
    places = aligned_sources(our_sources, their_sources)
    yield from order_difference(our_sources, places, their_sources)
    one = dict(flatten(ours.recipe))
    other = {_renumbered(key, places): value for key, value in flatten(theirs.recipe)}
    _join_lonely(one, other)
    _join_lonely(other, one)
    for key in dict.fromkeys([*one, *other]):
        table = key.split(".")[0]
        # JSON tells 1 from 1.0 and from true, which are equal in Python.
        if table in _NO_SETTINGS or _text(one, key) == _text(other, key):
            continue
        yield Difference(
            group=_GROUP_OF.get(table, "recipe"),
            key=key,
            ours=_text(one, key),
            theirs=_text(other, key),
            meaning=moved_meaning(key, ours, theirs) or recipe_meaning(key),
        )


def _sources(recipe: Mapping[str, Any]) -> list[Any]:
    data = recipe.get("data")
    found = data.get("sources") if isinstance(data, Mapping) else None
    return found if isinstance(found, list) and all(isinstance(one, Mapping) for one in found) else []


def _renumbered(key: str, places: Sequence[int]) -> str:
    """Give the key of a source's setting with the number of the source that it is compared with."""
    head, rest = key.partition("]")[::2]
    if not head.startswith(_SOURCE):
        return key
    return f"{_SOURCE}{places[int(head.removeprefix(_SOURCE))]}]{rest}"


def _join_lonely(table: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Make one entry of a table that only one side has, such as `eval` or `data.sources[1]`."""
    theirs = {prefix for key in other for prefix in _prefixes(key)}
    groups: dict[str, list[str]] = {}
    for key in table:
        lonely = next((prefix for prefix in _prefixes(key) if prefix not in theirs), None)
        # Under [env] each variable has a meaning of its own, whether there are others or not.
        if lonely is not None and not key.startswith("env."):
            groups.setdefault(lonely, []).append(key)
    for name, keys in groups.items():
        if len(keys) > 1:
            table[name] = {key[len(name) + 1 :]: table.pop(key) for key in keys}


def _prefixes(key: str) -> list[str]:
    """Give the tables that a key is below, the outermost first: `data`, `data.sources[0]`."""
    return [key[:place] for place, char in enumerate(key) if char == "."]


def _versions(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    one, other = ours.known("versions"), theirs.known("versions")
    for name in _other_names(one, other):
        group = "environment" if name in _MACHINE else "versions"
        yield _pair(group, name, one.get(name), other.get(name), version_meaning(name))


def _code(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    """Compare the code of packages that have the same version in both runs; that of another version is another one."""
    one, other = ours.known("code"), theirs.known("code")
    versions, others = ours.known("versions"), theirs.known("versions")
    for name in one:
        if one[name] != other.get(name, one[name]) and versions.get(name) == others.get(name):
            meaning = code_meaning(name)
            yield _pair("versions", f"code of {name}", shortened(one[name]), shortened(other[name]), meaning)


def _environment(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    """Compare machines and variables, where both runs have recorded them: earlier versions did not."""
    if not (ours.machine and theirs.machine):
        return
    one, other = ours.known("machine"), theirs.known("machine")
    for name in _other_names(one, other):
        yield _pair("environment", name, one.get(name), other.get(name), machine_meaning(name))
    one, other = ours.known("variables"), theirs.known("variables")
    for name in _other_names(one, other):
        yield _pair("environment", f"${name}", one.get(name), other.get(name), variable_meaning(name))


def _other_names(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]


def _pair(group: str, key: str, ours: str | None, theirs: str | None, meaning: Meaning) -> Difference:
    one, other = (ABSENT if value is None else value for value in (ours, theirs))
    return Difference(group=group, key=key, ours=one, theirs=other, meaning=meaning)


def _history(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    one, other = _continued(ours), _continued(theirs)
    if one != other:
        meaning = _continued_meaning((*ours.history, *theirs.history))
        yield Difference(group="recipe", key="continued", ours=one, theirs=other, meaning=meaning)


def _continued_meaning(entries: Sequence[Mapping[str, Any]]) -> Meaning:
    """Say what it means that runs were continued otherwise: the gravest that one of these changes means."""
    others = ("differences", "hashes", "versions", "machine", "variables", "code")
    settings = [entry.get("settings") for entry in entries]
    keys = {str(key) for table in settings if isinstance(table, Mapping) for key in table}
    if not keys or any(entry.get(name) for entry in entries for name in others):
        return Meaning(effect=Effect.PERHAPS, text="a run was continued with changed settings, data or versions")
    # That a setting is unknown here is graver than what is known to change no more than rounding.
    order = [Effect.UNKNOWN, *Effect]
    gravest = min((recipe_meaning(key).effect for key in keys), key=order.index)
    return Meaning(effect=gravest, text="a run was continued with other settings, of those that are free to change")


def _continued(facts: RunFacts) -> str:
    return " | ".join(f"after step {one.step}: {'; '.join(one.changes)}" for one in facts.continued) or ABSENT


def _text(table: Mapping[str, Any], key: str) -> str:
    if key not in table:
        return ABSENT
    value = table[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _named(found: Sequence[Difference]) -> str:
    """Say how many differences these are, and the first of them by their keys."""
    keys = ", ".join(dict.fromkeys(one.key for one in found[:_MOST_NAMED]))
    return f"{counted(len(found))}: {keys}{', …' if len(found) > _MOST_NAMED else ''}"


def counted(number: int) -> str:
    """Say how many differences there are."""
    return "1 difference" if number == 1 else f"{number:,} differences"
