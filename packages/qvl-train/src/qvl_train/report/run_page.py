"""The page of a run, or of several beside each other: one file, or the same served while the run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files

import numpy as np
from qvl_data.inspection.markup import Html, data_block, element, join
from qvl_data.inspection.page import card, page, tile

from qvl_train.report.diff_card import diff_card
from qvl_train.report.metrics_file import METRICS
from qvl_train.report.numbers import number_text, seconds_text
from qvl_train.report.profile_card import profile_card
from qvl_train.report.run_charts import COLOURS, Charts
from qvl_train.report.run_diff import diff_runs, flatten
from qvl_train.report.run_history import RunHistory
from qvl_train.report.samples_card import SamplesCards
from qvl_train.report.series import Series

# What `qvl report` writes; it replaces no other page than its own.
MAKER = "qvl report"
PAGE = "report.html"
COMPARISON = "comparison.html"
# Steps whose times tell how long the rest will take.
_RECENT = 50
_LAST_LOSSES = 20
_MOST_SETTINGS = 600
_COLUMNS = ("run", "state", "loss", "validation loss", "tokens/s", "step time", "peak GiB", "samples")


def run_page(runs: Sequence[RunHistory], *, live: bool = False, samples: SamplesCards | None = None) -> str:
    """Give the whole page. A `live` one asks the server that it came from for its newer self.

    `samples` shows what runs learned from and answered; None leaves that out.
    """
    own = files("qvl_train.report")
    code = own.joinpath("report.js").read_text(encoding="utf-8")
    if live:
        code += own.joinpath("live.js").read_text(encoding="utf-8")
    css = own.joinpath("report.css").read_text(encoding="utf-8")
    title = " and ".join(run.name for run in runs)
    return page(
        title, page_body(runs, live=live, samples=samples), css=css, code=code, maker=MAKER, asks_its_server=live
    )


def page_body(runs: Sequence[RunHistory], *, live: bool = False, samples: SamplesCards | None = None) -> Html:
    """Give what stands in the page's `main`."""
    charts = Charts(runs)
    cards = list(charts.cards())
    return join(
        _head(runs, live=live),
        _tiles(runs[0]) if len(runs) == 1 else _compared(runs),
        _notices(runs),
        *(
            diff_card(
                diff_runs(runs[0], run, (runs[0].name, run.name)),
                runs[0].name,
                run.name,
                id_=f"diff-{place}",
                # Of many runs the drawings are what is looked at first.
                is_folded=len(runs) > 2,
            )
            for place, run in enumerate(runs[1:], 1)
        ),
        *cards,
        *(samples.cards(runs) if samples is not None else ()),
        *(profile_card(run, is_alone=len(runs) == 1) for run in runs),
        *(_settings(run) for run in runs),
        element(
            "footer",
            "Drawn from metrics.jsonl and run.json. Smoothed: the mean over a window of a fortieth of the rows. "
            "Long lines are thinned to their lowest and highest points. Times are means over the processes.",
        ),
        data_block("charts", charts.readings),
    )


def _head(runs: Sequence[RunHistory], *, live: bool) -> Html:
    badges = list(_badges(runs[0])) if len(runs) == 1 else []
    if live:
        badges.append(element("span", "live", class_="badge warn", id="live", role="status"))
    title = runs[0].name if len(runs) == 1 else "Runs beside each other"
    return element(
        "header",
        element("div", element("h1", title), element("p", _about(runs), class_="soft"), class_="title"),
        element("div", *badges, class_="badges"),
        class_="head",
    )


def _about(runs: Sequence[RunHistory]) -> str:
    if len(runs) > 1:
        return ", ".join(run.name for run in runs)
    facts = runs[0].facts
    model, layout = facts.recipe.get("model"), facts.recipe.get("layout")
    said = []
    if isinstance(model, dict):
        said.append(str(model.get("name") or model.get("config") or ""))
    if isinstance(layout, dict):
        said.append(" ".join(f"{key} {layout[key]}" for key in ("tp", "pp", "dp") if key in layout))
    if facts.started:
        said.append(f"started {facts.started}")
    if facts.result is None and (written := _written(runs[0])):
        said.append(f"last written {written}")
    if facts.run_id:
        said.append(f"run {facts.run_id}")
    return " · ".join(part for part in said if part)


def _written(run: RunHistory) -> str:
    """Say when a run that has not finished gave its last sign: whether it still goes on, its folder does not tell.

    Nothing without a row: a run that begins writes an empty file.
    """
    if run.metrics.last_step is None and not run.metrics.not_finite:
        return ""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((run.folder / METRICS).stat().st_mtime))
    except (OSError, ValueError, OverflowError):
        return ""


def _state(run: RunHistory) -> str:
    total = run.facts.total_steps
    if run.facts.result is not None:
        return f"finished, {max(run.last_step, run.facts.steps_taken or 0):,} steps"
    return f"step {run.last_step:,} of {total:,}" if total is not None else f"step {run.last_step:,}"


def _badges(run: RunHistory) -> Iterator[Html]:
    """Give how far the run is, and apart from it, since both are to be seen, that its loss is no number any more."""
    tone = "good" if run.facts.result is not None and not run.loss_trouble else "warn"
    yield element("span", _state(run), class_=f"badge {tone}")
    if run.loss_trouble:
        yield element("span", run.loss_trouble, class_="badge bad")


def _last(run: RunHistory, key: str) -> float | None:
    """Give the last value, also where it is NaN or infinite."""
    _, values = run.metrics.all_values(key)
    return float(values[-1]) if len(values) else None


def _median(run: RunHistory, key: str) -> float | None:
    _, values = run.metrics.series(key)
    return float(np.median(values)) if len(values) else None


def _best(run: RunHistory, key: str) -> str:
    steps, values = run.metrics.series(key)
    if len(values) < 2:
        return ""
    at = int(values.argmin())
    return f"lowest {number_text(float(values[at]))} at step {int(steps[at]):,}"


def _recent_loss(run: RunHistory) -> str:
    steps, values = run.metrics.series("loss")
    last_row = run.metrics.all_values("loss")[0][-1:]
    if len(values) and steps[-1] != last_row[0]:
        return f"last finite one {number_text(float(values[-1]))}, at step {int(steps[-1]):,}"
    if len(values) < 2:
        return ""
    last = values[-_LAST_LOSSES:]
    return f"first {number_text(float(values[0]))}, mean of the last {len(last)} {number_text(float(last.mean()))}"


def _samples(run: RunHistory) -> float | None:
    steps, values = run.metrics.series("samples")
    return float(Series(steps=steps, values=values).summed().values[-1]) if len(values) else None


def _tiles(run: RunHistory) -> Html:
    """Give the figures that a person looks for first; those that the run does not have are left out."""
    found: list[Html] = [tile(number_text(_last(run, "loss")), "loss, last step", _recent_loss(run))]
    if (validation := _last(run, "validation_loss")) is not None:
        found.append(tile(number_text(validation), "validation loss", _best(run, "validation_loss")))
    if (accuracy := _last(run, "eval_accuracy_percent")) is not None:
        found.append(tile(f"{number_text(accuracy)} %", "right, last evaluation"))
    if (step_s := _median(run, "step_time_s")) is not None:
        found.append(tile(seconds_text(step_s), "a step, median", _left(run)))
    if (rate := _median(run, "tokens_per_s")) is not None:
        padded = _median(run, "padded_tokens_per_s")
        note = f"{number_text(padded)} with padding" if padded is not None and padded > rate * 1.001 else ""
        found.append(tile(number_text(rate), "tokens/s, median", note))
    if (mfu := _median(run, "mfu")) is not None:
        found.append(tile(f"{100 * mfu:.1f} %", "of the devices' peak (MFU), median"))
    if (memory := _peak(run)) is not None:
        found.append(tile(f"{number_text(memory)} GiB", "peak memory of a process"))
    if (samples := _samples(run)) is not None:
        found.append(tile(number_text(samples), "samples seen"))
    if (rate := _last(run, "lr")) is not None:
        found.append(tile(number_text(rate), "learning rate, last step"))
    return element("div", *found, class_="tiles")


def _peak(run: RunHistory) -> float | None:
    _, values = run.metrics.series("memory_peak_gib")
    found = [*run.memory_gib, *(float(value) for value in values)]
    return max(found) if found else None


def _left(run: RunHistory) -> str:
    """Say how long the rest of a run that is not finished takes at the pace of its last steps."""
    total = run.facts.total_steps
    _, times = run.metrics.series("step_time_s")
    if total is None or run.facts.result is not None or not len(times) or run.last_step >= total:
        return ""
    return f"about {seconds_text((total - run.last_step) * float(np.median(times[-_RECENT:])))} left at this pace"


def _compared(runs: Sequence[RunHistory]) -> Html:
    """Give the runs as lines of a table, each with its colour; on phones each is a block of lines."""
    head = element("tr", *(element("th", name, scope="col", class_=_aligned(name)) for name in _COLUMNS))
    rows = [
        element(
            "tr",
            *(
                element("td", cell, class_=_aligned(name), data_of=name if name != "run" else None)
                for name, cell in zip(_COLUMNS, _figures(run, place), strict=True)
            ),
        )
        for place, run in enumerate(runs)
    ]
    body = element("table", element("thead", head), element("tbody", *rows), class_="runs")
    return card("Runs", element("div", body, class_="scroll", tabindex=0, role="region", aria_label="runs"), id="runs")


def _aligned(name: str) -> str | None:
    return None if name in ("run", "state") else "n"


def _figures(run: RunHistory, place: int) -> tuple[Html | str, ...]:
    """Give a run's line, as `_COLUMNS` says."""
    step = _median(run, "step_time_s")
    numbers = (_last(run, "loss"), _last(run, "validation_loss"), _median(run, "tokens_per_s"))
    return (
        element("span", element("span", class_=f"key line c{place % COLOURS}"), run.name),
        element("span", _state(run), _tag(run.loss_trouble)),
        *map(number_text, numbers),
        seconds_text(step) if step is not None else "–",
        number_text(_peak(run)),
        number_text(_samples(run)),
    )


def _tag(trouble: str) -> Html | None:
    return join(" ", element("span", trouble, class_="tag bad")) if trouble else None


def _notices(runs: Sequence[RunHistory]) -> Html | None:
    found = [f"{run.name}: {text}" if len(runs) > 1 else text for run in runs for text in run.notices()]
    items = [element("p", text, class_="notice") for text in found]
    return card("To know", *items, id="notices") if items else None


def _settings(run: RunHistory) -> Html | None:
    """Give what the run was made with, folded: recipe, versions, hashes, the command, what it was continued with."""
    facts = run.facts
    lines = list(flatten(facts.recipe))
    tables = [
        ("Recipe, with defaults and derived values", [(key, _value(value)) for key, value in lines[:_MOST_SETTINGS]]),
        ("Versions", sorted(facts.known("versions").items())),
        ("Code, sha256", list(facts.known("code").items())),
        ("Machine", list(facts.known("machine").items())),
        ("Environment variables", list(facts.known("variables").items())),
        ("Hashes", list(facts.hashes.items())),
        ("Files of records", list(facts.files.items())[:_MOST_SETTINGS]),
        ("Continued", list(_continued(run))),
    ]
    parts = [
        element("details", element("summary", title), element("dl", *_pairs(pairs))) for title, pairs in tables if pairs
    ]
    if facts.command:
        parts.insert(0, element("p", element("code", facts.command)))
    return card(f"How {run.name} was run", *parts) if parts else None


def _pairs(pairs: Sequence[tuple[str, str]]) -> Iterator[Html]:
    for name, value in pairs:
        yield join(element("dt", name), element("dd", value))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _continued(run: RunHistory) -> Iterator[tuple[str, str]]:
    for one in run.facts.continued:
        yield f"after step {one.step}, {one.at}", "; ".join(one.changes)
