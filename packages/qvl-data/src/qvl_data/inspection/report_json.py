"""A report as JSON, for programs. Keys are stable: new ones may come, those that are there keep name and meaning.

schema             1
recipe, model      the recipe's path and the model's name
clean              true where there are no errors; then the command ends with 0
errors, warnings   counts of problems
settings           sequence_length (tokens), too_long, packing, decoded (pixels of images were read),
                   lengths_depend_on (the settings with which lengths hold, by name: `qvl plan --data-report` compares)
seconds            how long the check took
sources            a list: path, format, weight (null for the validation file), records, usable, dropped, shrunk, wrong
validation         samples, from
problems           a list by kind: kind, title, severity, count, examples (a list: file, line, key, message, fix)
tokens             text, image, video, all: of all training samples, each counted once
lengths            shortest, mean, median, p90, p99, longest: tokens of the training samples
histogram          edges (n + 1), used (n), dropped (n), limit, is_open (the last bin has no upper edge)
epoch              samples, tokens, items_per_step, items, steps_per_epoch, packs (count, fill; null without packing),
                   steps (null where the recipe counts epochs), epochs
media              images, videos, bytes: different files
longest            a list: where, tokens, text, image, video
per_sample         looked_at, labels, frames (means over so many samples: tokens that are learned; images and steps in
                   time of videos), longest_media, longest_text (tokens, of all samples)
kept               the file in data.cache_dir that `qvl plan` takes lengths from

A part that could not be found out, because recipe or data are wrong, is null.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from qvl_core.cli.problem_formats import split_where
from qvl_core.errors import Problem

from qvl_data.inspection.kinds import ProblemGroup
from qvl_data.inspection.report import CheckReport, EpochTotals, TokenTotals

SCHEMA = 1


def as_json(report: CheckReport, *, max_problems: int) -> str:
    """Give the report as one JSON object with the keys of this module's docstring, and so many examples a kind."""
    return json.dumps(report_values(report, max_problems=max_problems), indent=2, ensure_ascii=False)


def report_values(report: CheckReport, *, max_problems: int) -> dict[str, Any]:
    """Give the report as values that JSON has."""
    return {
        "schema": SCHEMA,
        "recipe": report.recipe,
        "model": report.model,
        "clean": report.is_clean,
        "errors": report.errors,
        "warnings": report.warnings,
        "settings": {
            "sequence_length": report.sequence_length,
            "too_long": report.too_long,
            "packing": report.packing,
            "decoded": report.decoded,
            "lengths_depend_on": report.lengths_depend_on,
        },
        "seconds": round(report.seconds, 3),
        "sources": [asdict(source) for source in report.sources],
        "validation": {"samples": report.validation_samples, "from": report.validation_from},
        "problems": [_group(group, max_problems) for group in report.groups],
        "tokens": _tokens(report.tokens),
        "lengths": asdict(report.lengths) if report.lengths else None,
        "histogram": asdict(report.histogram) if report.histogram else None,
        "epoch": _epoch(report.epoch),
        "media": asdict(report.media) if report.media else None,
        "longest": [asdict(sample) for sample in report.longest],
        "per_sample": asdict(report.figures.per_sample) if report.figures else None,
        "kept": str(report.kept) if report.kept else None,
    }


def _group(group: ProblemGroup, most: int) -> dict[str, Any]:
    return {
        "kind": group.kind,
        "title": group.title,
        "severity": group.severity,
        "count": group.count,
        "examples": [_problem(problem) for problem in group.examples[:most]],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    file, line = split_where(problem.where)
    return {"file": file, "line": line, "key": problem.key, "message": problem.message, "fix": problem.fix}


def _tokens(tokens: TokenTotals | None) -> dict[str, int] | None:
    return {**asdict(tokens), "all": tokens.all} if tokens else None


def _epoch(epoch: EpochTotals | None) -> dict[str, Any] | None:
    if epoch is None:
        return None
    return {**asdict(epoch), "items": epoch.items, "steps_per_epoch": epoch.steps_per_epoch}
