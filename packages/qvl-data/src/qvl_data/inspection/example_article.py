"""A record to look at, as markup: what `qvl data check` and reports of runs show of the data."""

from __future__ import annotations

from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.report import ExampleSample, Thumbnail


def example_article(example: ExampleSample) -> Html:
    """Give the record as an article: its size and place, its pictures, its messages."""
    turns = [element("p", element("b", role), text, class_="turn") for role, text in example.turns]
    pictures = [_thumbnail(thumbnail) for thumbnail in example.thumbnails]
    if example.hidden_media:
        pictures.append(element("span", f"and {example.hidden_media:,} more", class_="soft small"))
    return element(
        "article",
        element("div", element("strong", f"{example.tokens:,} tokens")) if example.tokens is not None else None,
        element("div", example.where, class_="where"),
        element("div", *pictures, class_="thumbs") if pictures else None,
        *turns,
        class_="example",
    )


def _thumbnail(thumbnail: Thumbnail) -> Html:
    if thumbnail.error:
        return element("div", thumbnail.caption, ": ", thumbnail.error, class_="gone")
    if not thumbnail.uri:
        return element("div", thumbnail.caption, class_="named")
    image = element("img", src=thumbnail.uri, width=thumbnail.width, height=thumbnail.height, alt=thumbnail.caption)
    return element("figure", image, element("figcaption", thumbnail.caption))
