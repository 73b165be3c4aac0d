"""A record to look at, as markup: what `qvl data check` and reports of runs show of the data."""

from __future__ import annotations

from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.report import ExampleSample, Thumbnail


def example_article(example: ExampleSample) -> Html:
    """Give the record as an article: its size and place, its pictures, its messages."""
    turns = [element("p", element("b", role), text, class_="turn") for role, text in example.turns]
    pictures = [figure_of(thumbnail) for thumbnail in example.thumbnails]
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


def figure_of(thumbnail: Thumbnail, name: str = "") -> Html:
    """Give the picture with its caption, or in its place why it is not there; `.thumbs` lays several out.

    `name` is what a picture without a caption is called where it cannot be seen.
    """
    caption = thumbnail.caption or name
    if thumbnail.error:
        return element("div", caption, ": ", thumbnail.error, class_="gone")
    if not thumbnail.uri:
        return element("div", caption, class_="named")
    image = element("img", src=thumbnail.uri, width=thumbnail.width, height=thumbnail.height, alt=caption)
    return element("figure", image, element("figcaption", thumbnail.caption) if thumbnail.caption else None)
