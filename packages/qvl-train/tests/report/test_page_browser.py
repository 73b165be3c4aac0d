"""The page in a real browser: every width and colour can be read, values are told under the pointer, live is live."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from devtools import CONTRAST, BrowserPage, find_browser
from PIL import Image
from qvl_train.report.live import LiveRuns, LiveServer
from qvl_train.report.run_history import open_runs
from qvl_train.report.run_page import run_page
from qvl_train.report.samples_card import SamplesCards
from run_folders import HOSTILE, record, rows, validations, write_run

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or chrome is installed: the page was not looked at"
)

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740, "phone": True}
POINT = """(() => {
  const drawing = [...document.querySelectorAll('figure[data-chart=%s] svg')].find((one) => one.clientWidth);
  const box = drawing.getBoundingClientRect();
  drawing.dispatchEvent(new PointerEvent('pointermove',
    {bubbles: true, clientX: box.left + box.width * %s, clientY: box.top + 50}));
  return document.querySelector('figure[data-chart=%s] output').textContent;
})()"""
STEP = "document.querySelector('header .badge').textContent"


@pytest.fixture(scope="module")
def page() -> Iterator[BrowserPage]:
    assert BROWSER is not None
    with BrowserPage(BROWSER) as shown:
        yield shown


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    lines = [*rows([*range(1, 101), *range(121, 301)]), *validations([100, 200, 300])]
    lines += [{"step": step, "eval_accuracy_percent": step / 4} for step in (100, 300)]
    history = [{"after_step": 120, "differences": [HOSTILE], "versions": {"numpy": ["1", "2"]}}]
    write_run(folder, lines, content=record({HOSTILE: HOSTILE}, history=history), memory=[0.9, 1.0])
    trace = folder / "profile" / "rank_000" / ("host_" * 30) / "ASCEND_PROFILER_OUTPUT" / "trace_view.json"
    trace.parent.mkdir(parents=True)
    trace.write_text(json.dumps([{"ph": "X", "name": HOSTILE * 5, "dur": "100"}]), encoding="utf-8")
    for step in (100, 200, 300):
        answers = [
            {"index": str(n), "question": HOSTILE * 3, "answer": "x" * 300, "prediction": HOSTILE, "score": n % 2}
            for n in range(20)
        ]
        path = folder / "evaluations" / f"step_{step:06}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    page_of_records(folder)
    return folder / "report.html"


def page_of_records(folder: Path) -> None:
    """Write the page with records of hostile texts, a picture, and one that is gone."""
    Image.new("RGB", (900, 300), (10, 90, 10)).save(folder / "wide.png")
    turns = [{"from": "human", "value": f"<image>{HOSTILE * 4}"}, {"from": "gpt", "value": "y" * 500}]
    records = [{"image": name, "conversations": turns} for name in ("wide.png", "gone" * 30 + ".png")]
    (folder / "train.json").write_text(json.dumps(records), encoding="utf-8")
    (run,) = open_runs([folder])
    sources = [{"path": str(folder / "train.json"), "format": "llava"}]
    run.facts = replace(run.facts, recipe={**run.facts.recipe, "data": {"sources": sources}})
    text = run_page([run], samples=SamplesCards())
    assert "wide.png" in text
    (folder / "report.html").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_run(folder / "a", rows(range(1, 301)), content=record())
    write_run(folder / "b", rows(range(1, 201), scale=1.3), content=record({"train.seed": 7, "layout.pp": 2}))
    (folder / "page.html").write_text(run_page(open_runs([folder / "a", folder / "b"])), encoding="utf-8")
    return folder / "page.html"


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desk", "phone"])
def test_can_be_read_at_every_width_and_colour(
    page: BrowserPage, request: pytest.FixtureRequest, name: str, dark: bool, size: dict[str, int]
) -> None:
    page.forget()
    page.look(**size, dark=dark)
    page.open(request.getfixturevalue(name))
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run(CONTRAST) == []
    # Nothing is wider than the window but what scrolls by itself.
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    # One drawing of each chart is seen, the one for this width.
    drawn = (
        "[...document.querySelectorAll('figure.lines')].map((figure) => "
        "[...figure.querySelectorAll('svg')].filter((one) => one.clientWidth).length)"
    )
    assert set(page.run(drawn)) == {1}
    # All of its lines, and their keys.
    hidden = (
        "[...document.querySelectorAll('.stroke, .dot, .legend .key')]"
        ".filter((one) => getComputedStyle(one).display === 'none').length"
    )
    assert page.run(hidden) == 0
    assert page.run("[...document.querySelectorAll('svg.chart')].filter((s) => s.clientWidth > 0).every((s) => "
                    "s.getBoundingClientRect().width / s.viewBox.baseVal.width > 0.75)")  # fmt: skip


@pytest.fixture(scope="module")
def extreme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a long name without a space, of steps and values with many digits; and another one beside it."""
    folder = tmp_path_factory.mktemp("extreme")
    names = [letter * 200 for letter in "ab"]
    for name in names:
        lines = [{**row, "loss": 1e50 * row["loss"]} for row in rows(range(2_000_000, 100_000_001, 2_000_000))]
        write_run(folder / name, lines, content=record({"train.log.every": 2_000_000}))
    runs = open_runs([folder / name for name in names])
    (folder / "one.html").write_text(run_page(runs[:1]), encoding="utf-8")
    (folder / "two.html").write_text(run_page(runs), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desk", "phone"])
def test_long_names_and_numbers_have_room(page: BrowserPage, extreme: Path, name: str, size: dict[str, int]) -> None:
    page.look(**size)
    page.open(extreme / f"{name}.html")
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run("document.documentElement.scrollWidth") == size["width"]
    # What is longer than its box would lie over the next one.
    assert page.run("[...document.querySelectorAll('.tile, .badge, h2')].every((o) => o.scrollWidth <= o.clientWidth)")
    # On a desk two columns of times are seen beside each other, whatever stands over them.
    scrolls = "[...document.querySelectorAll('#time .scroll')].some((one) => one.scrollWidth > one.clientWidth)"
    assert size == PHONE or not page.run(scrolls)
    cut = page.run("""[...document.querySelectorAll('svg.chart text')].filter((text) => {
            const box = text.getBBox(), whole = text.ownerSVGElement.viewBox.baseVal;
            return box.x < -1 || box.x + box.width > whole.width + 1;
        }).map((text) => text.textContent)""")
    assert cut == []
    crowded = page.run("""[...document.querySelectorAll('figure.lines svg')].filter((one) => one.clientWidth)
        .flatMap((drawing) => {
            const low = Math.max(...[...drawing.querySelectorAll('text')].map((one) => +one.getAttribute('y')));
            const row = [...drawing.querySelectorAll('text')].filter((one) => +one.getAttribute('y') === low - 20)
                .map((one) => one.getBBox());
            return row.slice(1).filter((box, at) => box.x < row[at].x + row[at].width + 3);
        }).length""")
    assert crowded == 0


@pytest.mark.parametrize("name", ["one", "several"])
def test_asks_nobody_and_runs_only_its_own_script(page: BrowserPage, request: pytest.FixtureRequest, name: str) -> None:
    path = request.getfixturevalue(name)
    page.forget()
    page.look(**WIDE)
    page.open(path)
    page.settle()
    own = ("about:", "data:image/", path.resolve().as_uri())
    assert [address for address in page.requests if not address.startswith(own)] == []
    assert (page.said, page.blocked) == ([], [])
    # The pictures are the page's own.
    assert page.run("[...document.images].every((one) => one.src.startsWith('data:image/') && one.naturalWidth)")


def test_tells_the_values_under_the_pointer(page: BrowserPage, one: Path) -> None:
    page.look(**WIDE)
    page.open(one)
    told = page.run(POINT % ("loss", 1.0, "loss"))
    assert told.startswith("step 300: training, smoothed ")
    assert "validation 0.1034" in told
    assert page.run(POINT % ("lr", 0.0, "lr")).startswith("step 1: each step 0.0009967")
    place = "Number([...document.querySelectorAll('figure[data-chart=loss] .cursor')][0].getAttribute('x1'))"
    assert page.run(place) == 1040 - 16


def test_arrow_keys_tell_the_values(page: BrowserPage, one: Path) -> None:
    page.look(**WIDE)
    page.open(one)
    reading = "document.querySelector('figure[data-chart=lr] output').textContent"
    page.run("document.querySelector('figure[data-chart=lr] svg.wide').focus()")
    assert page.run("document.activeElement.getAttribute('aria-description')") == "arrow keys read its values"
    found = []
    for key in ("Home", "ArrowRight", "End", "ArrowRight", "ArrowLeft"):
        page.press(key)
        found.append(page.run(reading).partition(":")[0])
    assert found == ["step 1", "step 2", "step 300", "step 300", "step 299"]
    # Other charts are left as they are, other keys are the browser's.
    assert page.run("document.querySelector('figure[data-chart=loss] output').textContent") == ""


def test_keys_of_lines_are_printed_in_their_colours(page: BrowserPage, one: Path) -> None:
    page.look(**WIDE, media="print")
    page.open(one)
    adjusts = "[...document.querySelectorAll('.key')].map((one) => getComputedStyle(one).printColorAdjust)"
    assert set(page.run(adjusts)) == {"exact"}
    page.look(**WIDE)


def test_is_whole_without_scripts(one: Path) -> None:
    assert BROWSER is not None
    with BrowserPage(BROWSER, scripts=False) as page:
        page.open(one)
        assert page.is_visible("figure[data-chart=loss] svg.wide")
        # Nothing is told there, and nobody asked to point at it.
        assert not page.is_visible("figure[data-chart=loss] output")
        assert "Time of a step" in page.texts("h2")
        assert page.texts(".tile b")[0] == "0.04332"


def wait_until(page: BrowserPage, text: str, where: str = STEP) -> None:
    """Wait until the page says a text, that of its step; it may be renewed before anybody listens for that."""
    deadline = time.monotonic() + 300
    while page.run(where) != text:
        assert time.monotonic() < deadline, page.run(where)
        page.settle()


def test_a_live_page_follows_the_run(page: BrowserPage, tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows([1, 2]), content=record())
    with LiveServer(LiveRuns(open_runs([tmp_path / "run"])), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        page.forget()
        page.look(**WIDE)
        page.visit(server.address)
        assert page.run(STEP) == "step 2 of 300"
        # A new card comes above what was opened and tabbed to: another one of the folds of the page.
        versions = "[...document.querySelectorAll('details')].find((one) => one.textContent.startsWith('Versions'))"
        page.run(f"{versions}.open = true")
        page.run(f"{versions}.querySelector('summary').focus()")
        write_run(tmp_path / "run", rows(range(1, 41)), content=record(), memory=[1.0, 2.0])
        wait_until(page, "step 40 of 300")
        # It is still open, alone, and the pointer reads the new numbers.
        assert page.run("document.querySelectorAll('details[open]').length") == 1
        assert page.run(f"{versions}.open && document.activeElement === {versions}.querySelector('summary')")
        assert page.run(POINT % ("lr", 1.0, "lr")).startswith("step 40: ")
        # So is a chart that was tabbed to, with what was read there.
        page.run("document.querySelector('figure[data-chart=loss] svg.wide').focus()")
        page.press("Home")
        write_run(tmp_path / "run", rows(range(1, 51)), content=record(), memory=[1.0, 2.0])
        wait_until(page, "step 50 of 300")
        assert page.run("document.activeElement.closest('figure').dataset.chart") == "loss"
        reading = "document.querySelector('figure[data-chart=%s] output').textContent.split(':')[0]"
        assert (page.run(reading % "loss"), page.run(reading % "lr")) == ("step 1", "step 40")
        # Somebody who hears the page is not told every time how old the last number is.
        wait_until(page, "off", "document.getElementById('live').getAttribute('aria-live')")
        write_run(tmp_path / "run", rows(range(1, 301)), content=record(result={"steps": 300}))
        wait_until(page, "finished, 300 steps")
        # What is wrong is told in a line as long as its path.
        page.look(**PHONE)
        page.run("document.getElementById('live').textContent = 'x'.repeat(300)")
        assert page.run("document.documentElement.scrollWidth") == PHONE["width"]
        assert (page.said, page.blocked) == ([], [])
        assert {address.split("?")[0] for address in page.requests if not address.startswith("about:")} <= {
            server.address,
            f"{server.address}state.json",
            f"{server.address}favicon.ico",
        }
        server.shutdown()
        thread.join()
