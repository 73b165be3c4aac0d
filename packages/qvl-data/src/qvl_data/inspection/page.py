"""The frame of our pages: one file, nothing loaded from anywhere, light and dark, desk and phone, rarely a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from qvl_data.inspection.markup import Child, Html, document, element, join, policy_hash, script, style_sheet
from qvl_data.inspection.page_file import DATA_PAGE, mark

# A browser that obeys it runs nothing and fetches nothing, whatever a record managed to smuggle in.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, *parts: Child | Iterable[Child], css: str = "", code: str = "", maker: str = DATA_PAGE) -> str:
    """Give a whole page of a title and the children of its `main`; `css` is added to that of all pages.

    `code` is the page's own script. A page that has one allows it and its style sheet by their hashes and no other,
    so that no element of it can have a `style` or an event attribute. `maker` is the command that writes the page.
    """
    sheet = style_sheet(files("qvl_data.inspection").joinpath("page.css").read_text(encoding="utf-8") + css)
    own = script(code) if code else None
    head = join(
        element("meta", charset="utf-8"),
        "\n",
        element("meta", http_equiv="Content-Security-Policy", content=_policy(sheet, own)),
        "\n",
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        "\n",
        element("meta", name="referrer", content="no-referrer"),
        "\n",
        element("title", title),
        "\n",
        sheet,
    )
    return document(head, join(element("main", *parts), own), mark=mark(maker))


def _policy(sheet: Html, own: Html | None) -> str:
    if own is None:
        return POLICY
    rules = f"style-src {policy_hash(sheet)}; script-src {policy_hash(own)}"
    return f"default-src 'none'; img-src data:; {rules}; base-uri 'none'; form-action 'none'"


def card(title: str, *parts: Child | Iterable[Child], id: str | None = None) -> Html:  # noqa: A002 - the attribute
    """Give a section with its heading; `id` is where links of the page lead to."""
    return element("section", "\n", element("h2", title), *parts, "\n", class_="card", id=id)


def tile(value: Child, label: Child, note: str = "") -> Html:
    """Give one large figure with what it is."""
    return element("div", element("b", value), element("span", label), element("span", note or None), class_="tile")


def table(columns: Sequence[str], rows: Iterable[Sequence[Child]], *, right: Sequence[str] = ()) -> Html:
    """Give a table that scrolls by itself where the screen is too narrow; columns in `right` are flush right."""
    classes = ["n" if column in right else None for column in columns]
    # The first column names a file; it may break anywhere.
    classes[0] = classes[0] or "path"
    head = element("tr", [element("th", c, class_="n" if c in right else None) for c in columns])
    body = [
        element("tr", [element("td", cell, class_=name) for cell, name in zip(row, classes, strict=True)])
        for row in rows
    ]
    return element("div", element("table", element("thead", head), element("tbody", body)), class_="scroll")
