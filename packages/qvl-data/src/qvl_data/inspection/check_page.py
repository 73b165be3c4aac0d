"""A report as one HTML page: figures, the histogram, problems with a filter, and pictures of some samples.

Everything is in the one file, nothing needs a script: the filter is radio buttons and a few rules of CSS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qvl_core.cli.terminal import bytes_text

from qvl_data.inspection.example_article import example_article
from qvl_data.inspection.histogram_svg import histogram_svg
from qvl_data.inspection.markup import Html, element, join
from qvl_data.inspection.page import card, page, table, tile
from qvl_data.inspection.phrases import counted, epoch_lines, seconds_text, share
from qvl_data.inspection.problems_card import filter_rules, problems_card
from qvl_data.inspection.report import CheckReport, TokenTotals

_GROUPS = (
    ("longest", "The longest", "They set the memory that a step needs."),
    ("dropped", "Too long", "Left out of training because of sequence_length."),
    ("random", "A random few", "Drawn from all training samples, the same at each check."),
)


def check_page(report: CheckReport) -> str:
    """Give the page of a report. Every text of a record in it is escaped."""
    return page(
        f"Data check of {report.recipe}",
        _head(report),
        _tiles(report),
        _lengths(report),
        problems_card(report.groups),
        _sources(report),
        _longest(report),
        _examples(report),
        _foot(report),
        css=filter_rules(report.groups),
    )


def _head(report: CheckReport) -> Html:
    parts = [report.model, f"sequence_length {report.sequence_length:,}", f"too_long {report.too_long}"]
    parts += ["packing"] if report.packing else []
    facts = " · ".join(parts) if report.model else "the recipe cannot be used"
    badges = [_badge(counted(report.errors, "problem"), "bad") if report.errors else _badge("clean", "good")]
    if report.warnings:
        badges.append(_badge(counted(report.warnings, "warning"), "warn"))
    title = element(
        "div", element("h1", "Data check: ", report.recipe), element("p", facts, class_="soft"), class_="title"
    )
    return element("header", title, element("div", *badges, class_="badges"), class_="head")


def _badge(text: str, tone: str) -> Html:
    return element("span", text, class_=f"badge {tone}")


def _tiles(report: CheckReport) -> Html | None:
    tiles = []
    if report.sources:
        usable = sum(source.usable for source in report.sources)
        left = ("dropped", sum(s.dropped for s in report.sources)), ("wrong", sum(s.wrong for s in report.sources))
        note = ", ".join([f"{usable:,} usable", *(f"{number:,} {name}" for name, number in left if number)])
        tiles.append(tile(f"{report.records:,}", "records", note))
    if report.epoch is not None:
        epoch = report.epoch
        tiles.append(tile(f"{epoch.tokens:,}", "tokens an epoch", counted(epoch.samples, "sample")))
        steps = f"{epoch.steps_per_epoch:,.1f}".removesuffix(".0")
        item = "pack" if epoch.packs is not None else "sample"
        tiles.append(tile(steps, "steps an epoch", f"of {counted(epoch.items_per_step, item)} each"))
        if epoch.packs is not None:
            tiles.append(tile(f"{100 * epoch.packs.fill:.1f} %", "of the packs filled", f"{epoch.packs.count:,} packs"))
    if report.media is not None:
        media = report.media
        videos = f"{counted(media.videos, 'video')}, " if media.videos else ""
        tiles.append(tile(f"{media.images:,}", "images", f"{videos}{bytes_text(media.bytes)}"))
    return element("div", *tiles, class_="tiles") if tiles else None


def _lengths(report: CheckReport) -> Html | None:
    if report.histogram is None or report.lengths is None or report.tokens is None:
        return None
    histogram, lengths = report.histogram, report.lengths
    keys = [_key("used", "used")]
    if any(histogram.dropped):
        keys.append(_key("lost", "too long, dropped"))
    keys.append(_key("line", "sequence_length"))
    rows = [
        ("mean", f"{lengths.mean:,.1f} tokens"),
        ("shortest", f"{lengths.shortest:,}"),
        ("half have at most", f"{lengths.median:,}"),
        ("90 % have at most", f"{lengths.p90:,}"),
        ("99 % have at most", f"{lengths.p99:,}"),
        ("longest", f"{lengths.longest:,}"),
    ]
    run = epoch_lines(report)
    if report.validation_samples:
        run.append(("validation", f"{counted(report.validation_samples, 'sample')}, {report.validation_from}"))
    return card(
        "Lengths in tokens",
        element(
            "figure",
            histogram_svg(histogram, width=1040, height=300, x_ticks=10, class_="wide"),
            histogram_svg(histogram, width=360, height=270, x_ticks=4, class_="narrow"),
            element("figcaption", *keys, class_="legend"),
        ),
        *_shares(report.tokens),
        element("div", element("div", element("h3", "Training samples"), _pairs(rows)),
                element("div", element("h3", "Epoch and run"), _pairs(run)), class_="columns"),
    )  # fmt: skip


def _key(name: str, text: str) -> Html:
    return element("span", element("span", class_=f"key {name}"), text)


def _shares(tokens: TokenTotals) -> Iterator[Html]:
    """Show what the tokens stand for: a bar and its legend with the numbers."""
    named = [("text", "used", tokens.text), ("image", "image", tokens.image), ("video", "video", tokens.video)]
    filled = [(name, key, number) for name, key, number in named if number]
    parts = [
        element("span", class_=f"part {name}", style=f"width:{100 * number / tokens.all:.2f}%")
        for name, _, number in filled
    ]
    yield element("div", *parts, class_="bar", role="img", aria_label="tokens by what they stand for")
    texts = [_key(key, f"{name} {number:,} ({share(number, tokens.all)})") for name, key, number in filled]
    yield element("div", *texts, class_="legend")


def _pairs(rows: Sequence[tuple[str, str]]) -> Html:
    return element("dl", [join(element("dt", name), element("dd", text)) for name, text in rows])


def _sources(report: CheckReport) -> Html | None:
    if not report.sources:
        return None
    columns = ("file", "format", "weight", "records", "usable", "dropped", "shrunk", "wrong")
    rows = [
        (
            source.path,
            source.format,
            f"{source.weight:g}" if source.weight is not None else "validation",
            *(f"{n:,}" for n in (source.records, source.usable, source.dropped, source.shrunk, source.wrong)),
        )
        for source in report.sources
    ]
    return card("Files of records", table(columns, rows, right=columns[2:]))


def _longest(report: CheckReport) -> Html | None:
    if not report.longest:
        return None
    columns = ("sample", "tokens", "text", "image", "video")
    rows = [
        (sample.where, *(f"{n:,}" for n in (sample.tokens, sample.text, sample.image, sample.video)))
        for sample in report.longest
    ]
    return card("Longest samples", table(columns, rows, right=columns[1:]))


def _examples(report: CheckReport) -> Html | None:
    parts: list[Html] = []
    for why, title, note in _GROUPS:
        chosen = [example for example in report.examples if example.why == why]
        if chosen:
            parts.append(element("h3", title))
            parts.append(element("p", note, class_="soft small"))
            parts.append(element("div", [example_article(example) for example in chosen], class_="examples"))
    return card("Samples", *parts) if parts else None


def _foot(report: CheckReport) -> Html:
    how = "Images were decoded" if report.decoded else "Of media only headers were read"
    return element(
        "footer",
        "Lengths count every token that training will see: text, the chat template's own tokens, and images and videos "
        f"after resizing. {how}. The check took {seconds_text(report.seconds)}. The same figures for programs: "
        "qvl data check RECIPE --format json",
    )
