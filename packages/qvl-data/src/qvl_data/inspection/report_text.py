"""A report as text: tables that need no colours and fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qvl_core.cli.terminal import print_heading, print_table

from qvl_data.inspection.kinds import ProblemGroup
from qvl_data.inspection.markup import visible
from qvl_data.inspection.phrases import counted, epoch_lines, media_text, share, verdict
from qvl_data.inspection.report import CheckReport, Histogram

if TYPE_CHECKING:
    from rich.console import Console

_BAR = 32
_SHOWN = 5
_ROWS = 20


def print_report(target: Console, report: CheckReport, *, max_problems: int) -> None:
    """Print what was found, most needed last: problems and the verdict stand where a terminal stops scrolling."""
    if not report.sources:
        for group in report.groups:
            _print_examples(target, group, max_problems)
        target.print(visible(f"{report.recipe}: {counted(report.errors, 'problem')}"), style="bold")
        return
    target.print(visible(f"{report.recipe}: data of {report.model}"), style="bold")
    _print_sources(target, report)
    if report.lengths is not None:
        _print_totals(target, report)
        _print_histogram(target, report)
        _print_longest(target, report)
    if report.groups:
        _print_groups(target, report, max_problems)
    target.print()
    target.print(visible(verdict(report)), style="bold")


def _print_sources(target: Console, report: CheckReport) -> None:
    print_heading(target, "Records")
    rows = [
        (
            visible(source.path if source.weight is not None else f"{source.path} (validation)"),
            *(f"{n:,}" for n in (source.records, source.usable, source.dropped, source.shrunk, source.wrong)),
        )
        for source in report.sources
    ]
    columns = ("file", "records", "usable", "dropped", "shrunk", "wrong")
    print_table(target, columns, rows, right=columns[1:], whole=columns[1:])


def _print_totals(target: Console, report: CheckReport) -> None:
    print_heading(target, "Training")
    rows = [*_length_rows(report), *epoch_lines(report)]
    if report.media is not None:
        rows.append(("media", media_text(report.media)))
    if report.validation_samples:
        rows.append(("validation", f"{counted(report.validation_samples, 'sample')}, {report.validation_from}"))
    if report.kept is not None:
        rows.append(("kept", f"{report.kept}, for `qvl plan`"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        target.print(visible(f"{name:<{width}}  {text}"))


def _length_rows(report: CheckReport) -> Iterator[tuple[str, str]]:
    lengths, tokens = report.lengths, report.tokens
    if lengths is None or tokens is None:
        return
    yield "length", f"{lengths.mean:,.1f} tokens on average, {lengths.shortest:,} to {lengths.longest:,}"
    yield "", f"half have at most {lengths.median:,}, 90 % {lengths.p90:,}, 99 % {lengths.p99:,}"
    parts = (("text", tokens.text), ("image", tokens.image), ("video", tokens.video))
    yield "tokens", f"{tokens.all:,}: " + ", ".join(f"{name} {share(part, tokens.all)}" for name, part in parts)


def _print_histogram(target: Console, report: CheckReport) -> None:
    histogram = report.histogram
    if histogram is None:
        return
    print_heading(target, f"Lengths in tokens; sequence_length is {histogram.limit:,}")
    for line in histogram_lines(histogram, bar=_bar_character(target)):
        target.print(line)


def histogram_lines(histogram: Histogram, *, bar: str = "#") -> list[str]:
    """Draw a histogram with one line a bin, empty bins at both ends left out; `bar` fills, `x` is what was dropped."""
    merged = _merge_bins(histogram)
    most = max(used + dropped for _, _, used, dropped in merged)
    labels = [f"{first:,}-{last:,}" if last else f"{first:,} and more" for first, last, _, _ in merged]
    wide, counts = max(map(len, labels)), max(len(f"{used + dropped:,}") for _, _, used, dropped in merged)
    lines = []
    is_marked = False
    for label, (_, last, used, dropped) in zip(labels, merged, strict=True):
        filled = bar * _cells(used, most) + "x" * _cells(dropped, most)
        note = f"  {dropped:,} dropped" if dropped else ""
        # The limit stands under the last bin that lies below it as a whole.
        lines.append(f"{label:>{wide}}  {used + dropped:>{counts},}  {filled}{note}")
        if not is_marked and last and last >= histogram.limit - 1 and any(row[3] for row in merged):
            lines.append(f"{'limit':>{wide}}  {'-' * (counts + _BAR + 2)}")
            is_marked = True
    return lines


def _merge_bins(histogram: Histogram) -> list[tuple[int, int, int, int]]:
    """Give (first, last, used, dropped) of at most _ROWS bins; last is 0 for the open one."""
    totals = [used + dropped for used, dropped in zip(histogram.used, histogram.dropped, strict=True)]
    filled = [place for place, total in enumerate(totals) if total]
    step = -(-(filled[-1] + 1 - filled[0]) // _ROWS)
    rows = []
    for start in range(filled[0], filled[-1] + 1, step):
        stop = min(start + step, len(totals))
        is_open = histogram.is_open and stop == len(totals)
        last = 0 if is_open else histogram.edges[stop] - 1
        rows.append((histogram.edges[start], last, sum(histogram.used[start:stop]), sum(histogram.dropped[start:stop])))
    return rows


def _cells(count: int, most: int) -> int:
    # One sample among a million is still seen.
    return max(1, round(_BAR * count / most)) if count else 0


def _bar_character(target: Console) -> str:
    return "█" if "utf" in target.encoding.lower() else "#"


def _print_longest(target: Console, report: CheckReport) -> None:
    print_heading(target, "Longest samples")
    columns = ("sample", "tokens", "text", "image", "video")
    rows = [
        (visible(sample.where), *(f"{n:,}" for n in (sample.tokens, sample.text, sample.image, sample.video)))
        for sample in report.longest[:_SHOWN]
    ]
    print_table(target, columns, rows, right=columns[1:], whole=columns[1:])


def _print_groups(target: Console, report: CheckReport, max_problems: int) -> None:
    print_heading(target, "Found")
    rows = [(f"{group.count:,}", _severity(group), group.title) for group in report.groups]
    print_table(target, ("count", "what", "kind"), rows, right=("count",), whole=("count", "what"))
    for group in reversed(report.groups):
        if max_problems:
            print_heading(target, f"{group.title} ({counted(group.count, _severity(group))})")
            _print_examples(target, group, max_problems)


def _print_examples(target: Console, group: ProblemGroup, most: int) -> None:
    for problem in group.examples[:most]:
        target.print(visible(problem.render()))
    hidden = group.count - min(most, len(group.examples))
    if hidden:
        target.print(f"... and {hidden:,} more")


def _severity(group: ProblemGroup) -> str:
    return "problem" if group.is_error else "warning"
