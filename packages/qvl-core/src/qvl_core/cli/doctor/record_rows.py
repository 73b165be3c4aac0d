"""A hundred records of each data source, read as the run would read them, and their media opened, in a child."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
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
    return _row([json.loads(line) for line in done.stdout.splitlines()])


def _row(found: list[dict[str, object]]) -> Row:
    read, wrong, seen = (sum(int(str(one[name])) for one in found) for name in ("read", "wrong", "seen"))
    said = f"{read} record(s) of the first {seen} of {len(found)} source(s)"
    if not seen and not wrong:
        fix = "get the files again, or correct data.sources.path"
        return Row(check=NAME, level="fail", evidence="the data files hold no record", fix=fix)
    if not wrong:
        evidence = f"{said} can be read, with their media; `qvl data check RECIPE` reads all"
        return Row(check=NAME, level="ok", evidence=evidence)
    lines = [str(line) for one in found for line in one["first"]]  # type: ignore[attr-defined]
    shown = "; ".join(printable(line, 160) for line in lines[:_SHOWN])
    # A few are for data.bad_samples to deal with; where all are, the format or the folder of the media is another.
    level: Level = "fail" if wrong >= read else "warn"
    fix = "qvl data check RECIPE lists all of them"
    if level == "fail":
        fix = "compare data.sources.format and media_root with a record: qvl data preview RECIPE shows some"
    return Row(check=NAME, level=level, evidence=f"{said}: {wrong} cannot be used: {shown}", fix=fix)


def _skipped(why: str) -> Row:
    return Row(check=NAME, level="skipped", evidence=why)
