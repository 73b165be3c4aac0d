"""What differs in data and weights of two runs: sources that came or went, files that changed, places that moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qvl_train.report.difference import Difference, shortened
from qvl_train.report.meanings import Effect, Meaning
from qvl_train.report.run_facts import RunFacts

# Files of records that are named one by one; a folder of shards may have thousands.
_MOST_NAMED = 20
_SAME_DATA = Meaning(effect=Effect.FILES, text="another place of the same data: the data hash is the same")
_SAME_WEIGHTS = Meaning(effect=Effect.FILES, text="another place of the same weights: their hash is the same")
_PLACES = ("path", "media_root")


def aligned_sources(ours: Sequence[Any], theirs: Sequence[Any]) -> list[int]:
    """Give for each of their sources the number of ours that it is compared with: of the same path, else in order.

    Numbers beyond ours are sources that only they have.
    """
    places: dict[int, int] = {}
    for at, source in enumerate(theirs):
        same = (one for one in range(len(ours)) if one not in places.values() and _path(ours[one]) == _path(source))
        if _path(source) is not None and (found := next(same, None)) is not None:
            places[at] = found
    left = iter([number for number in range(len(ours) + len(theirs)) if number not in places.values()])
    return [places[at] if at in places else next(left) for at in range(len(theirs))]


def _path(source: Any) -> Any:
    return source.get("path") if isinstance(source, Mapping) else None


def moved_meaning(key: str, ours: RunFacts, theirs: RunFacts) -> Meaning | None:
    """Give the meaning of another path where the hashes tell that it leads to the same; None where they do not."""
    table, _, name = key.rpartition(".")
    if key == "weights.source" and _same(ours, theirs, "weights"):
        return _SAME_WEIGHTS
    # Of streamed data the hash is one of the records, not of their media.
    places = _PLACES[:1] if _streams(ours) or _streams(theirs) else _PLACES
    is_source = table.startswith("data.sources[") or table == "data.validation"
    return _SAME_DATA if is_source and name in places and _same(ours, theirs, "data") else None


def _streams(facts: RunFacts) -> bool:
    data = facts.recipe.get("data")
    return isinstance(data, Mapping) and bool(data.get("streaming"))


def _same(ours: RunFacts, theirs: RunFacts, name: str) -> bool:
    found = ours.hashes.get(name)
    return found is not None and found == theirs.hashes.get(name)


def hash_differences(ours: RunFacts, theirs: RunFacts) -> Iterator[Difference]:
    """Compare the hashes of data, weights and whatever else a run has hashes of."""
    for name in dict.fromkeys([*ours.hashes, *theirs.hashes]):
        one, other = ours.hashes.get(name), theirs.hashes.get(name)
        if one != other:
            yield Difference(
                group="weights" if name == "weights" else "data",
                key=f"{name} hash",
                ours=shortened(one),
                theirs=shortened(other),
                meaning=_hash_meaning(name, one, other, ours, theirs),
            )


def _hash_meaning(name: str, one: str | None, other: str | None, ours: RunFacts, theirs: RunFacts) -> Meaning:
    if one is None or other is None:
        return Meaning(effect=Effect.UNKNOWN, text="only one of the runs has recorded it")
    if name == "weights":
        return Meaning(effect=Effect.NUMBERS, text=f"{_weights_text(one, other)}, whatever their path is")
    if name == "data" and ours.files and sorted(ours.files.values()) == sorted(theirs.files.values()):
        text = "the files of records are the same, to the byte: media are other ones, or other records are used"
        return Meaning(effect=Effect.NUMBERS, text=text)
    text = "other records or media, or others of them are used; where paths are the same, the files have changed"
    return Meaning(effect=Effect.NUMBERS, text=text)


def _weights_text(one: str, other: str) -> str:
    """Say what two fingerprints of weights differ in: `random:SEED:...` are drawn, the others are read."""
    drawn = [text.split(":") for text in (one, other) if text.startswith("random:")]
    if len(drawn) == 1:
        return "one run starts from random weights, the other one from a checkpoint"
    if len(drawn) == 2 and drawn[0][2:] == drawn[1][2:]:
        return "weights are drawn from another seed"
    if len(drawn) == 2:
        return "weights are drawn for another configuration of the model"
    return "training starts from other weights"


def file_differences(
    ours: Mapping[str, str], theirs: Mapping[str, str], names: tuple[str, str]
) -> Iterator[Difference]:
    """Name the files of records that changed, came or went, by their digests; nothing where a run has none recorded."""
    if not (ours and theirs):
        return
    found = list(_files(ours, theirs, names))
    yield from found[:_MOST_NAMED]
    if len(found) > _MOST_NAMED:
        more = f"{len(found) - _MOST_NAMED:,} more files"
        text = "differ too; both run.json have the digest of each"
        meaning = Meaning(effect=Effect.NUMBERS, text=text)
        yield Difference(group="data", key=more, ours="", theirs="", meaning=meaning)


def _files(ours: Mapping[str, str], theirs: Mapping[str, str], names: tuple[str, str]) -> Iterator[Difference]:
    for path in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(path), theirs.get(path)
        if one == other:
            continue
        if one is not None and other is not None:
            meaning = Meaning(effect=Effect.NUMBERS, text="this file has changed: other records")
        elif one is not None:
            meaning = _lonely_file(one, theirs, names[0])
        else:
            meaning = _lonely_file(str(other), ours, names[1])
        yield Difference(group="data", key=path, ours=shortened(one), theirs=shortened(other), meaning=meaning)


def _lonely_file(digest: str, others: Mapping[str, str], name: str) -> Meaning:
    twin = next((path for path, value in others.items() if value == digest), None)
    if twin is not None:
        return Meaning(effect=Effect.FILES, text=f"the same bytes as {twin} of the other run")
    return Meaning(effect=Effect.NUMBERS, text=f"only {name} reads this file")


def order_difference(ours: Sequence[Any], places: Sequence[int], theirs: Sequence[Any]) -> Iterator[Difference]:
    """Tell that sources which both runs have stand in another order: samples then come in another order."""
    common = [number for number in places if number < len(ours)]
    if common != sorted(common):
        one, other = (", ".join(str(_path(source)) for source in side) for side in (ours, theirs))
        meaning = Meaning(effect=Effect.NUMBERS, text="samples come in another order")
        yield Difference(group="data", key="data.sources, their order", ours=one, theirs=other, meaning=meaning)
