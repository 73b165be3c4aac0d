"""A hundred records of each data source, read as the run would read them, and their media opened, in a child."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor.child import Runner, last_line, run_child
from qvl_core.cli.doctor.row import Level, Row
from qvl_core.cli.doctor.versions import installed_version
from qvl_core.input_file import printable

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

NAME = "recipe-records"
DEADLINE_S = 15.0
MOST = 100
# Of larger files the records that are reached in this time, which leaves the rest of the deadline to their media.
_READING_S = 4.0
_SHOWN = 3
_AGAIN = "get the files again, or correct data.sources.path"
# The working directory must not stand in for a module; -P is Python 3.11's.
_START = "import sys; sys.path[:1] = sys.path[:1] if sys.path[0] else []\n"
# Draws records with equal chances from all that were reached (reservoir), the same ones each time.
_PROGRAM = """
import json, random, sys, time
from pathlib import Path
from qvl_core.errors import InputError
from qvl_core.recipe.sections import SourceSection
from qvl_data.media.error import MediaError
from qvl_data.media.images import check_image
from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.media.video import probe_video
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Record
from qvl_data.records.record_file import open_record_files
from qvl_data.source_rules import rules_of
most, reading_s = int(sys.argv[1]), float(sys.argv[2])
def look(source):
    rules, chance, held, seen = rules_of(SourceSection.model_validate(source)), random.Random(0), [], 0
    end = time.monotonic() + reading_s
    for file in open_record_files(rules.path):
        for element in file.elements():
            seen += 1
            place = len(held) if len(held) < most else chance.randrange(seen)
            if place < most:
                held[place:place + 1] = [(file.path, element)]
            if time.monotonic() > end:
                break
    root, wrong = MediaRoot(rules.media_root, allow_outside=rules.allow_outside), []
    for path, element in held:
        found = parse_element(element, path=path, format_name=rules.format, tags=rules.tags)
        if not isinstance(found, Record):
            wrong.append(f"{found[0].where}: {found[0].message}")
            continue
        for medium in found.media:
            try:
                place = root.resolve(medium.written)
                check_image(place, decode=False) if medium.kind == "image" else probe_video(place, timeout_s=5.0)
            except (MediaError, MediaPathError, OSError) as error:
                wrong.append(f"{found.where}: {medium.written}: {error}")
                break
    return {"seen": seen, "read": len(held), "wrong": len(wrong), "first": wrong[:3]}
for source in json.loads(sys.argv[3]):
    try:
        print(json.dumps(look(source)), flush=True)
    except InputError as error:
        problem = error.problems[0]
        print(json.dumps({"seen": 0, "read": 0, "wrong": 1, "first": [f"{problem.where}: {problem.message}"]}))
"""


def check_records(recipe: Recipe, environment: Mapping[str, str], run: Runner = run_child) -> Row:
    """Check that a sample of each source's records can be read, and that their media are there and can be opened."""
    if recipe.task != "sft":
        return _skipped("the recipe trains on nothing")
    if installed_version("qvl-data") is None:
        return _skipped("qvl-data is not installed: nothing reads records here")
    sources = [source for source in recipe.data.sources if Path(source.path).exists()]
    if not sources:
        return _skipped("an earlier check failed: recipe-files")
    stated = json.dumps([source.model_dump(mode="json", exclude_none=True) for source in sources])
    try:
        done = run(
            [sys.executable, "-c", _START + _PROGRAM, str(MOST), str(_READING_S), stated], environment, DEADLINE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return _skipped(f"no answer within {DEADLINE_S:.0f} s; `qvl data check RECIPE` reads every record")
    if done.returncode:
        fix = "qvl data check RECIPE says more"
        return Row(check=NAME, level="warn", evidence=f"could not be read: {last_line(done)}", fix=fix)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return _row([{"path": source.path, **one} for source, one in zip(sources, found, strict=False)])


def _row(found: list[dict[str, object]]) -> Row:
    """Judge each source by itself, as another one's records do not replace its own; the worst gives the level."""
    read, wrong, seen = (sum(_number(one, name) for one in found) for name in ("read", "wrong", "seen"))
    said = f"{read} record(s) of the first {seen} of {len(found)} source(s)"
    if not seen and not wrong:
        return Row(check=NAME, level="fail", evidence="the data files hold no record", fix=_AGAIN)
    failed = [one for one in found if _is_unusable(one)]
    if not wrong and not failed:
        evidence = f"{said} can be read, with their media; `qvl data check RECIPE` reads all"
        return Row(check=NAME, level="ok", evidence=evidence)
    first = [_lines(one) for one in (*failed, *(one for one in found if one not in failed))]
    # One line of each source before the second one of any.
    lines = [line for row in zip_longest(*first) for line in row if line is not None]
    shown = "; ".join(printable(line, 160) for line in lines[:_SHOWN])
    level: Level = "fail" if failed else "warn"
    fix = "qvl data check RECIPE lists all of them"
    if failed:
        fix = "compare data.sources.format and media_root with a record: qvl data preview RECIPE shows some"
    if failed and not any(_number(one, "read") for one in failed):
        fix = _AGAIN
    count = f"{wrong} cannot be used" if wrong else "not all can be used"
    if failed and len(found) > 1:
        count += f", and {len(failed)} of the sources not at all"
    return Row(check=NAME, level=level, evidence=f"{said}: {count}: {shown}", fix=fix)


def _is_unusable(one: Mapping[str, object]) -> bool:
    """Tell whether a source has no record, or none that can be used; a few are for data.bad_samples to deal with.

    Where all are wrong, the format or the folder of the media is another.
    """
    return _number(one, "wrong") >= _number(one, "read")


def _lines(one: Mapping[str, object]) -> list[str]:
    lines = [str(line) for line in one["first"]]  # type: ignore[attr-defined]
    return lines if _number(one, "seen") or lines else [f"{one.get('path', 'a source')} holds no record"]


def _number(one: Mapping[str, object], name: str) -> int:
    return int(str(one[name]))


def _skipped(why: str) -> Row:
    return Row(check=NAME, level="skipped", evidence=why)
