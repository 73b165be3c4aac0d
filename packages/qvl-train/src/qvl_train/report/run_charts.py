"""The charts of one run or of several: which numbers are drawn together, and in which card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card, table

from qvl_train.report.line_chart import Line, line_chart
from qvl_train.report.numbers import number_text
from qvl_train.report.run_history import RunHistory
from qvl_train.report.series import Series
from qvl_train.report.time_split import compared_table, split_area, split_bar, split_table, time_split

# As many as a page has runs: each has one of its own.
COLOURS = 12
# The keys that each of the cards that stand side by side is there for.
_HALVES = (
    ("eval_accuracy_percent",),
    ("tokens_per_s",),
    ("bubble",),
    ("memory_gib", "memory_peak_gib", "device_memory_peak_gib"),
    ("lr",),
    ("gradient_norm",),
    ("samples",),
)
# A run of more processes than these has a table of the largest only.
_MOST_RANKS = 16
_MOST_MARK_TEXT = 300


class Charts:
    """Makes the cards of some runs; `readings` is what the page's script reads values from."""

    def __init__(self, runs: Sequence[RunHistory]) -> None:
        self._runs = runs
        self.readings: dict[str, Any] = {}

    def cards(self) -> Iterator[Html]:
        """Give the cards, those that have something to show: the first ones whole, the others side by side."""
        yield from self._card("loss", "Loss", self._loss(), unit="loss", may_be_log=True)
        # Of an odd number one more is whole: no place beside a card stays empty.
        is_odd = sum(any(self._has(key) for key in keys) for keys in _HALVES) % 2 == 1
        if is_odd:
            yield from self._throughput(is_half=False)
        yield from self._time()
        halves = list(self._halves(with_throughput=not is_odd))
        if halves:
            yield element("div", *halves, class_="pairs")

    def _has(self, key: str) -> bool:
        return any(len(run.metrics.series(key)[0]) for run in self._runs)

    def _throughput(self, *, is_half: bool) -> Iterator[Html]:
        lines = self._noisy("tokens_per_s", "")
        yield from self._card("throughput", "Throughput", lines, unit="tokens/s", from_zero=True, is_half=is_half)

    def _halves(self, *, with_throughput: bool) -> Iterator[Html]:
        accuracy = self._plain("eval_accuracy_percent", "accuracy", points=True)
        yield from self._half("evaluation", "Evaluation during training", accuracy, unit="% right")
        if with_throughput:
            yield from self._throughput(is_half=True)
        bubble = self._noisy("bubble", "")
        idle = "idle share of the stages' time"
        yield from self._half("bubble", "Pipeline bubble", bubble, unit=idle, from_zero=True)
        yield from self._memory()
        yield from self._half("lr", "Learning rate", self._plain("lr", ""), unit="learning rate", from_zero=True)
        norms = self._noisy("gradient_norm", "")
        yield from self._half("norm", "Gradient norm", norms, unit="norm before clipping", may_be_log=True)
        yield from self._half("samples", "Samples seen", self._samples(), unit="samples", from_zero=True)

    def _half(self, id_: str, title: str, lines: list[Line], **how: Any) -> Iterator[Html]:
        yield from self._card(id_, title, lines, is_half=True, **how)

    def _name(self, run: RunHistory, what: str) -> str:
        return (f"{run.name} {what}" if what else run.name) if len(self._runs) > 1 else what or "each step"

    def _card(self, id_: str, title: str, lines: list[Line], **how: Any) -> Iterator[Html]:
        chart = self._chart(id_, lines, **how)
        if chart is not None:
            yield card(title, chart, id=id_)

    def _chart(self, id_: str, lines: list[Line], **how: Any) -> Html | None:
        marks = [mark for run in self._runs for mark in _marks(run)] if len(self._runs) == 1 else []
        chart = line_chart(id_, lines, marks=marks, **how)
        if chart is None:
            return None
        self.readings[id_] = chart.reading
        return chart.html

    def _loss(self) -> list[Line]:
        lines = self._noisy("loss", "training")
        for place, run in enumerate(self._runs):
            # The validation of a single run has a colour of its own; of several, a run has one colour.
            colour = 1 if len(self._runs) == 1 else place % COLOURS
            validation = _series(run, "validation_loss")
            lines.append(Line(name=self._name(run, "validation"), series=validation, colour=colour, style="points"))
        return lines

    def _noisy(self, key: str, what: str) -> list[Line]:
        """Give each run's line, the smoothed one over the faint one where it is long."""
        faint, clear = [], []
        for place, run in enumerate(self._runs):
            series, colour = _series(run, key), place % COLOURS
            smooth = series.smoothed()
            name = self._name(run, what)
            if smooth is None:
                clear.append(Line(name=name, series=series, colour=colour, style=self._style(place)))
                continue
            if len(self._runs) == 1:
                faint.append(Line(name=what or "each step", series=series, colour=colour, style="faint"))
            name = f"{name}, smoothed" if what else self._name(run, "smoothed")
            clear.append(Line(name=name, series=smooth, colour=colour, style=self._style(place)))
        return [*faint, *clear]

    def _style(self, place: int) -> Literal["line", "broad"]:
        """Draw the first of several wider: another line with the same values lies on it and hides nothing."""
        return "broad" if len(self._runs) > 1 and place == 0 else "line"

    def _plain(self, key: str, what: str, *, points: bool = False) -> list[Line]:
        return [
            Line(
                name=self._name(run, what),
                series=_series(run, key),
                colour=place % COLOURS,
                style="points" if points else self._style(place),
            )
            for place, run in enumerate(self._runs)
        ]

    def _samples(self) -> list[Line]:
        return [
            Line(
                name=self._name(run, "samples"),
                series=_series(run, "samples").summed(),
                colour=place % COLOURS,
                style=self._style(place),
            )
            for place, run in enumerate(self._runs)
        ]

    def _time(self) -> Iterator[Html]:
        found = [(run.name, split) for run in self._runs if (split := time_split(run)) is not None]
        if not found:
            return
        if len(self._runs) == 1:
            split = found[0][1]
            area = list(split_area(split))
            figure = element("figure", *area) if area else None
            yield card("Time of a step", split_bar(split), split_table(split), figure, id="time")
            return
        bars = [element("div", element("h3", name), split_bar(split)) for name, split in found]
        keys = {part.name: part for _, split in found for part in split.parts}
        legend = [element("span", element("span", class_=f"key p{part.colour}"), name) for name, part in keys.items()]
        means = element("div", compared_table(found), class_="beside")
        yield card("Time of a step", *bars, element("p", *legend, class_="legend"), means, id="time")

    def _memory(self) -> Iterator[Html]:
        lines: list[Line] = []
        for place, run in enumerate(self._runs):
            colour = place % COLOURS
            is_alone = len(self._runs) == 1
            resident = Line(name=self._name(run, "resident"), series=_series(run, "memory_gib"), colour=colour)
            peak = Line(
                name=self._name(run, "peak so far"),
                series=_series(run, "memory_peak_gib"),
                colour=1 if is_alone else colour,
                style="dashed",
            )
            device = _series(run, "device_memory_peak_gib")
            on_device = Line(name=self._name(run, "device, peak"), series=device, colour=2 if is_alone else colour)
            lines += [resident, peak, on_device]
        chart = self._chart("memory", lines, unit="GiB of the largest process", from_zero=True, is_half=True)
        ranks = [part for run in self._runs for part in self._ranks(run)]
        if chart is not None or ranks:
            yield card("Memory", chart, *ranks, id="memory")

    def _ranks(self, run: RunHistory) -> Iterator[Html]:
        """Give each process's peak where there are several, the largest first where there are many."""
        if len(run.memory_gib) < 2:
            return
        ranked = list(enumerate(run.memory_gib))
        if len(ranked) > _MOST_RANKS:
            ranked = sorted(ranked, key=lambda one: -one[1])[:_MOST_RANKS]
        rows = [(f"rank {rank}", f"{number_text(value)} GiB") for rank, value in ranked]
        title = f"Peak of each process{', the largest' if len(run.memory_gib) > len(ranked) else ''}"
        name = f"{run.name}: " if len(self._runs) > 1 else ""
        yield element("details", element("summary", f"{name}{title}"), table(("rank", "peak"), rows, right=("peak",)))


def _series(run: RunHistory, key: str) -> Series:
    steps, values = run.metrics.series(key)
    return Series(steps=steps, values=values, every=run.facts.logged_every or 0)


def _marks(run: RunHistory) -> Iterator[tuple[int, str]]:
    """Give the steps after which the run went on with something else."""
    for one in run.facts.continued:
        if one.step is not None:
            yield one.step, f"continued with {'; '.join(one.changes)[:_MOST_MARK_TEXT]}"
