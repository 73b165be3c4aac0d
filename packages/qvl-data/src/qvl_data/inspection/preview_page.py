"""Previews of samples as one HTML page: pictures, tokens coloured by what is learned, positions where a pointer rests.

Bounded whatever the samples hold: of a sample at most MAX_TOKENS tokens are drawn one by one (its beginning and end;
what lies between is counted), at most 16 media and 24 frames a video, all of them shrunk to a fixed side. That is at
most about 0.6 MB of tokens and 2 MB of pictures for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from qvl_data.inspection.markup import Html, element, escaped, join, visible
from qvl_data.inspection.page import page
from qvl_data.inspection.phrases import counted
from qvl_data.inspection.pieces import Piece
from qvl_data.inspection.preview import Frame, PreviewItem, PreviewMedium, PreviewSample, UnusableSample

MAX_TOKENS = 4096
_END = 512
# Each cell of a picture costs about 80 bytes; a picture of more cells shows none.
_MAX_CELLS = 2048
_SMALLEST_VIEW = 224
_AXES = ("t", "h", "w")


def preview_page(items: Sequence[PreviewItem], *, recipe: str, model: str, loss_on: str, how: str) -> str:
    """Give the page. `how` says which samples these are. Every text of a record in it is escaped."""
    css = files("qvl_data.inspection").joinpath("preview.css").read_text(encoding="utf-8")
    samples = [sample for item in items for sample in item.samples]
    facts = f"{counted(len(samples), 'sample')}, {how} · {model} · learned: {loss_on}"
    return page(
        f"Data preview of {recipe}",
        element("h1", "Data preview: ", recipe),
        element("p", facts, class_="soft"),
        _legend(),
        element("input", type="checkbox", id="cells", class_="pick"),
        element("label", "show the tokens of images as a grid", for_="cells", class_="toggle"),
        _contents(samples) if len(samples) > 1 else None,
        [_item(item) for item in items],
        element(
            "footer",
            "Pictures are made from the patches that the model gets, after resizing and normalising, and are shown as "
            f"JPEG or smaller where they are large. Of samples with more than {MAX_TOKENS:,} tokens the middle is left "
            "out here, not in training.",
        ),
        css=css,
    )


def _legend() -> Html:
    examples = (
        (element("b", "learned"), "counts in the loss"),
        (element("i", "read"), "is only read"),
        (element("i", "<|im_end|>", class_="x"), "special token"),
        (element("i", "image 1 · 16", class_="m image"), "placeholder tokens of a medium, with their number"),
    )
    rows = [element("span", element("span", sign, class_="tokens"), " ", text) for sign, text in examples]
    note = element("span", "Rest the pointer on a token or picture: number, id and position (time, height, width).")
    return element("p", *rows, note, class_="legend")


def _contents(samples: Sequence[PreviewSample | UnusableSample]) -> Html:
    links = [
        element("li", element("a", sample.where, href=f"#s{sample.number}"), _length(sample)) for sample in samples
    ]
    return element("details", element("summary", "Samples and their tokens"), element("ol", *links, class_="toc"))


def _length(sample: PreviewSample | UnusableSample) -> str:
    return f" {sample.tokens:,}" if isinstance(sample, PreviewSample) else " unusable"


def _item(item: PreviewItem) -> Html:
    position = item.position if item.room is None else None
    cards = [
        _sample(sample, position) if isinstance(sample, PreviewSample) else _unusable(sample) for sample in item.samples
    ]
    if item.room is None:
        return join(cards)
    good = [sample for sample in item.samples if isinstance(sample, PreviewSample)]
    used = sum(sample.tokens for sample in good)
    name = "Pack" if item.position is None else f"Pack at position {item.position:,}"
    head = f"{name}: {counted(len(cards), 'sample')}, {used:,} of {item.room:,} tokens, {100 * used / item.room:.1f} %"
    if item.hidden:
        head += f", and {counted(item.hidden, 'sample')} more that this page has no room for"
    bars = [
        element(
            "a",
            f"{sample.tokens:,}",
            href=f"#s{sample.number}",
            title=f"{sample.where}: {sample.tokens:,} tokens",
            style=f"width:{100 * sample.tokens / item.room:.2f}%",
        )
        for sample in good
    ]
    return element("section", element("h2", head), element("div", *bars, class_="segments"), *cards, class_="pack")


def _unusable(sample: UnusableSample) -> Html:
    text = element("p", sample.message, class_="mono")
    return element("article", element("h2", sample.where), text, class_="card sample", id=f"s{sample.number}")


def _sample(sample: PreviewSample, position: int | None) -> Html:
    parts = [("text", sample.text_tokens), ("image", sample.image_tokens), ("video", sample.video_tokens)]
    split = ", ".join(f"{number:,} {name}" for name, number in parts if number)
    facts = [
        element("span", element("b", f"{sample.tokens:,}"), f" tokens ({split})"),
        element("span", element("b", f"{sample.learned_tokens:,}"), " learned"),
        element("span", f"training sample {sample.number:,} in file order"),
    ]
    if position is not None:
        facts.append(element("span", f"position {position:,} of the training order"))
    if sample.max_pixels is not None:
        facts.append(element("span", f"too long: media shrunk to max_pixels {sample.max_pixels:,}", class_="tag warn"))
    media = [_medium(medium, number) for number, medium in enumerate(sample.media, 1)]
    if sample.hidden_media:
        media.append(element("p", f"and {sample.hidden_media:,} more images or videos", class_="soft"))
    return element(
        "article",
        "\n",
        element("h2", sample.where),
        element("p", *facts, class_="facts"),
        element(
            "div",
            element("div", *media, class_="media") if media else None,
            element("div", *_tokens(sample.pieces), class_="tokens"),
            class_="beside" if _fits_beside(sample) else None,
        ),
        "\n",
        class_="card sample",
        id=f"s{sample.number}",
    )


def _fits_beside(sample: PreviewSample) -> bool:
    """Tell whether pictures stand beside the tokens on a wide screen: not the many frames of a video."""
    return bool(sample.media) and all(medium.kind == "image" for medium in sample.media)


# --- tokens -----------------------------------------------------------------------------------------------------------


def _tokens(pieces: Sequence[Piece]) -> Iterator[Html]:
    """Draw the pieces; of a very long sample its beginning and its end."""
    if len(pieces) <= MAX_TOKENS:
        yield from (_piece(piece) for piece in pieces)
        return
    middle = pieces[MAX_TOKENS - _END : -_END]
    yield from (_piece(piece) for piece in pieces[: MAX_TOKENS - _END])
    hidden = sum(piece.count for piece in middle)
    learned = sum(piece.count for piece in middle if piece.is_learned)
    yield element("span", f"{hidden:,} tokens are not shown here, {learned:,} of them learned", class_="gap")
    yield from (_piece(piece) for piece in pieces[-_END:])


def _piece(piece: Piece) -> Html:
    # Written by hand and not with `element`: a page has tens of thousands of these.
    tag = "b" if piece.is_learned else "i"
    title = f"token {piece.first}"
    if piece.count > 1:
        title += f"-{piece.first + piece.count - 1}"
    title += f" id {','.join(map(str, piece.ids))} {_place(piece.positions, piece.last)}"
    if piece.medium >= 0:
        text = f"{piece.kind} {piece.medium + 1} · {piece.count:,}"
        return Html(f'<{tag} class="m {piece.kind}" title="{title}">{text}</{tag}>')
    if piece.kind == "special":
        return Html(f'<{tag} class="x" title="{title}">{escaped(piece.text)}</{tag}>')
    odd = ' class="o"' if piece.first % 2 else ""
    return Html(f'<{tag}{odd} title="{title}">{_with_white_space(piece.text)}</{tag}>')


def _place(first: tuple[int, int, int], last: tuple[int, int, int]) -> str:
    if first == last:
        return " ".join(f"{axis}{value}" for axis, value in zip(_AXES, first, strict=True))
    pairs = zip(_AXES, first, last, strict=True)
    return " ".join(f"{axis}{start}" if start == stop else f"{axis}{start}-{stop}" for axis, start, stop in pairs)


def _with_white_space(text: str) -> str:
    """Escape a text, and make its white space visible; it stays what it is when it is copied."""
    shown = escape(visible(text), quote=False)
    return (
        shown.replace(" ", '<u class="s"> </u>')
        .replace("\t", '<u class="t">\t</u>')
        .replace("\n", '<u class="n"></u>\n')
    )


# --- media ------------------------------------------------------------------------------------------------------------


def _medium(medium: PreviewMedium, number: int) -> Html:
    size = f"{medium.width} × {medium.height}"
    before = f"{medium.file_width} × {medium.file_height}"
    tokens = f"{medium.slices} × " if medium.kind == "video" else ""
    caption = element(
        "figcaption",
        element("b", f"{medium.kind} {number}"),
        f" {medium.name}: {before} pixels, resized to {size}; {tokens}{medium.rows} × {medium.columns} = "
        f"{medium.slices * medium.rows * medium.columns:,} tokens",
    )
    if medium.kind == "image":
        return element("figure", _view(medium, medium.frames[0], wide=True), caption)
    strip = [_video_frame(medium, frame) for frame in medium.frames]
    if medium.hidden_frames:
        strip.append(element("span", f"and {counted(medium.hidden_frames, 'frame')} more", class_="soft small"))
    return element("figure", element("div", *strip, class_="strip"), caption)


def _video_frame(medium: PreviewMedium, frame: Frame) -> Html:
    note = f"{frame.time_s or 0:.2f} s, t {medium.times[frame.slice]}"
    return element("figure", _view(medium, frame, wide=False), element("figcaption", note))


def _view(medium: PreviewMedium, frame: Frame, *, wide: bool) -> Html:
    """Draw a picture with its cells and marks on it; small ones are enlarged to whole multiples."""
    factor = max(1, _SMALLEST_VIEW // max(frame.width, 1)) if wide else 1
    alt = f"{medium.kind} {medium.name}"
    layers = [*_cells(medium)] if wide else []
    layers += [_mark(mark.values, medium) for mark in medium.marks]
    image = element("img", src=frame.uri, width=frame.width * factor, height=frame.height * factor, alt=alt)
    box = f"0 0 {medium.width} {medium.height}"
    drawing = element("svg", *layers, viewBox=box, preserveAspectRatio="none") if layers else None
    name = "view large" if factor > 1 else "view"
    return element("span", image, drawing, class_=name, style=f"width:{frame.width * factor}px")


def _cells(medium: PreviewMedium) -> Iterator[Html]:
    """Draw each token's part of an image, with its position."""
    if medium.rows * medium.columns > _MAX_CELLS:
        return
    high, wide = medium.height // medium.rows, medium.width // medium.columns
    time, top, left = medium.position
    cells = []
    for row in range(medium.rows):
        for column in range(medium.columns):
            token = medium.first_token + row * medium.columns + column
            title = f"token {token} t{time} h{top + row} w{left + column}"
            outline = f"M{column * wide} {row * high}h{wide}v{high}h-{wide}z"
            cells.append(f'<path d="{outline}"><title>{title}</title></path>')
    yield element("g", Html("".join(cells)), class_="cells")


def _mark(values: tuple[float, ...], medium: PreviewMedium) -> Html:
    x, y, *corner = (round(value, 1) for value in values)
    if not corner:
        return element("circle", cx=x, cy=y, r=max(3, medium.width // 90), class_="region point")
    return element("rect", x=x, y=y, width=round(corner[0] - x, 1), height=round(corner[1] - y, 1), class_="region")
