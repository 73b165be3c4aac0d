"""The page in a real browser: filters filter, no network is asked, nothing foreign runs, all can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from devtools import BrowserPage, find_browser
from qvl_eval.report import write_report
from qvl_eval.report.row_verdicts import JudgedRow, Result, judged_rows
from report_cases import HOSTILE, PROTOCOL, RULES, SUBJECTS, Pictures, choice_rows, picture, results_of

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or chrome is installed: the page was not looked at"
)

SHOWN = "[...document.querySelectorAll('#list > article h3')].map((head) => head.textContent.slice(4))"
PLACE = "document.querySelector('#pager .place').textContent"
# Contrast of every text with what lies behind it, by WCAG 2.1; those below the wanted ratio.
CONTRAST = """(() => {
  const part = (value) => { const s = value / 255; return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = [], UNSEEN = ['SCRIPT', 'NOSCRIPT', 'STYLE', 'OPTION'];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.disabled || UNSEEN.includes(node.tagName)) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${node.tagName}.${node.className}`;
    if (ratio < 4.5) low.push(`${name}: ${ratio.toFixed(2)} ${node.textContent.slice(0, 40)}`);
  }
  return [...new Set(low)];
})()"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A report in a browser, and the rows that it was made of."""

    path: Path
    rows: Sequence[JudgedRow]
    results: Sequence[Result]


@pytest.fixture(scope="module")
def mmmu(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    pictures = Pictures([picture(number, 200, 150) for number in range(20)])
    rows = choice_rows(210, pictures=pictures, mmmu=True)
    rows[8] = dataclasses.replace(rows[8], prediction=f"{HOSTILE} A", question="Where is <b>Ünïque</b> & co?")
    rows[9] = dataclasses.replace(rows[9], prediction="y" * 40_000)
    results = results_of(rows, benchmark="mmmu_dev_val")
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, title="tiny on mmmu", protocol=PROTOCOL, results=results, pictures=pictures)
    return Shown(path=path, rows=list(judged_rows(results)), results=results)


@pytest.fixture(scope="module")
def page() -> Iterator[BrowserPage]:
    assert BROWSER is not None
    with BrowserPage(BROWSER) as shown:
        yield shown


@pytest.fixture
def opened(page: BrowserPage, mmmu: Shown) -> BrowserPage:
    page.forget()
    page.look(width=1280, height=900)
    page.open(mmmu.path)
    return page


def names(rows: Sequence[JudgedRow], wanted: Callable[[JudgedRow], bool]) -> list[str]:
    """Give the indexes of the rows that a filter is to show, in the order of the file."""
    return [row.row.index for row in rows if wanted(row)]


def check(page: BrowserPage, wanted: Sequence[str]) -> None:
    """Compare what is shown with what is wanted: their number, and the first page of them."""
    page.choose("size", "300")
    assert page.run(SHOWN) == list(wanted)
    count = f"1 to {len(wanted)} of {len(wanted)} rows" if wanted else "No row fits these filters."
    assert page.run(PLACE) == count


def test_shows_first_what_is_not_right(opened: BrowserPage, mmmu: Shown) -> None:
    wanted = names(mmmu.rows, lambda row: not row.is_right)
    assert opened.run(SHOWN) == wanted[:24]
    assert opened.run(PLACE) == f"1 to 24 of {len(wanted)} rows"
    assert opened.run("document.getElementById('waiting')") is None


@pytest.mark.parametrize("result", ["right", "wrong", "failed", "part", "all"])
@pytest.mark.parametrize("place", [-1, 0, 2])
def test_filters_by_result_and_rule_set(opened: BrowserPage, mmmu: Shown, result: str, place: int) -> None:
    opened.choose("rules", RULES[place] if place >= 0 else "")
    opened.choose("result", result)

    def is_wanted(row: JudgedRow) -> bool:
        verdicts = row.verdicts[place : place + 1] if place >= 0 else row.verdicts
        return result == "all" or result in verdicts

    check(opened, names(mmmu.rows, is_wanted))


def test_filters_by_split_subject_and_category(opened: BrowserPage, mmmu: Shown) -> None:
    opened.choose("result", "all")
    opened.choose("split", "dev")
    check(opened, names(mmmu.rows, lambda row: row.row.split == "dev"))
    opened.choose("category", "Business")
    check(opened, names(mmmu.rows, lambda row: row.row.split == "dev" and row.row.category == "Business"))
    opened.choose("split", "")
    opened.choose("category", "")
    opened.choose("subcategory", SUBJECTS[3])
    check(opened, names(mmmu.rows, lambda row: row.row.subcategory == SUBJECTS[3]))


def test_filters_by_the_rule_that_fired(opened: BrowserPage, mmmu: Shown) -> None:
    opened.choose("result", "all")
    opened.choose("rules", RULES[1])
    opened.choose("fired", "letter token")
    check(opened, names(mmmu.rows, lambda row: row.judged[1].rule == "letter token"))
    opened.choose("result", "wrong")
    wrong = names(mmmu.rows, lambda row: row.judged[1].rule == "letter token" and row.verdicts[1] == "wrong")
    check(opened, wrong)


def test_filters_by_text_and_not_by_the_pages_own_words(opened: BrowserPage, mmmu: Shown) -> None:
    opened.choose("result", "all")
    opened.choose("search", "label 77 ")
    check(opened, names(mmmu.rows, lambda row: "label 77 " in row.row.question))
    opened.choose("search", "<B>ÜNÏQUE</B> & CO")
    check(opened, [mmmu.rows[8].row.index])
    opened.choose("search", "cannot be told from")
    check(opened, names(mmmu.rows, lambda row: "cannot be told from" in row.row.prediction))
    opened.choose("search", "prompt as sent")
    check(opened, [])
    opened.choose("search", "reference")
    check(opened, [])


def test_shows_only_rows_on_which_the_rule_sets_differ(opened: BrowserPage, mmmu: Shown) -> None:
    opened.choose("result", "all")
    opened.choose("differs", "yes")
    check(opened, names(mmmu.rows, lambda row: row.differs))


def test_links_of_charts_and_differences_set_the_filters(opened: BrowserPage, mmmu: Shown) -> None:
    opened.run("document.querySelector('#subcategory a').click()")
    opened.settle()
    subject = mmmu.rows[0].row.subcategory
    wanted = names(mmmu.rows, lambda row: row.row.subcategory == subject and row.row.split == "validation")
    assert opened.run(SHOWN) == wanted
    first = next(row.row.index for row in mmmu.rows if row.differs)
    opened.run("document.querySelector('#differences tbody a').click()")
    opened.run("document.querySelector('#differences a[href^=\"#row=\"]').click()")
    opened.settle()
    assert opened.run(SHOWN) == [first]


def test_turns_pages_and_starts_over(opened: BrowserPage, mmmu: Shown) -> None:
    wanted = names(mmmu.rows, lambda row: not row.is_right)
    opened.run("document.querySelector('#pager-end .next').click()")
    assert opened.run(SHOWN) == wanted[24:48]
    assert opened.run("location.hash") == "#page=2"
    opened.run("document.querySelector('#pager .back').click()")
    assert opened.run(SHOWN) == wanted[:24]
    assert opened.run("document.querySelector('#pager .back').disabled")
    opened.choose("result", "right")
    opened.choose("search", "label 1")
    opened.run("document.getElementById('reset').click()")
    assert opened.run(SHOWN) == wanted[:24]


def test_an_address_keeps_the_filters(page: BrowserPage, mmmu: Shown) -> None:
    page.open(mmmu.path, f"result=wrong&rules={RULES[0]}&category=Business&size=300")
    wanted = names(mmmu.rows, lambda row: row.verdicts[0] == "wrong" and row.row.category == "Business")
    assert page.run(SHOWN) == wanted
    page.open(mmmu.path, "result=nonsense&category=None+such&page=999&rules=x&fired=y&size=7")
    wanted = names(mmmu.rows, lambda row: not row.is_right)
    assert page.run(SHOWN) == wanted[-(len(wanted) % 24 or 24) :]


def test_pictures_are_drawn(opened: BrowserPage, mmmu: Shown) -> None:
    drawn = (
        "[...document.querySelectorAll('#list svg')].map((one) => {"
        " const box = one.querySelector('use').getBoundingClientRect(); return box.width > 50 && box.height > 30; })"
    )
    shown = [row for row in mmmu.rows if not row.is_right][:24]
    assert opened.run(drawn) == [True] * sum(len(row.row.images) for row in shown)


def test_a_picture_among_several_grows_when_it_is_chosen(opened: BrowserPage, mmmu: Shown) -> None:
    row = next(row.row for row in mmmu.rows if len(row.row.images) > 1)
    opened.choose("result", "all")
    opened.choose("row", row.index)
    width = "document.querySelector('#list svg').getBoundingClientRect().width"
    before = opened.run(width)
    opened.run("document.querySelector('#list svg').focus()")
    assert opened.run(width) > 1.5 * before


def test_asks_nothing_of_the_network_and_complains_of_nothing(opened: BrowserPage, mmmu: Shown) -> None:
    opened.choose("result", "all")
    opened.choose("size", "300")
    assert {address.split(":")[0] for address in opened.requests} == {"file", "data"}
    assert [address for address in opened.requests if address.startswith("file")] == [mmmu.path.as_uri()]
    assert opened.said == []
    assert opened.blocked == []


def test_an_answer_with_a_script_stays_text(opened: BrowserPage, mmmu: Shown) -> None:
    opened.choose("result", "all")
    opened.choose("row", mmmu.rows[8].row.index)
    assert opened.run("[...document.querySelectorAll('#list .text')][1].textContent") == f"{HOSTILE} A"
    assert opened.run("document.title") == "tiny on mmmu"
    assert opened.run("document.querySelectorAll('#list script, #list img').length") == 0


@pytest.mark.parametrize("width", [320, 768])
def test_hostile_names_neither_run_nor_leave_the_screen(page: BrowserPage, tmp_path: Path, width: int) -> None:
    texts = [HOSTILE, "x" * 40_000, "\u202e\u2066\x00\ud800", "مرحبا بالعالم B", "A\u0301" * 900, "", " ", "\n" * 90]
    rows = [
        dataclasses.replace(row, index=f"{text[:60]}{row.index}", split=text, subcategory=text, category=text,
                            question=text, answer=text, prediction=text, options={"A": text}, question_type=text)
        for row, text in zip(choice_rows(8, pictures=Pictures([])), texts, strict=True)
    ]  # fmt: skip
    path = tmp_path / "report.html"
    results = results_of(rows, rules=(HOSTILE, "y" * 300))
    write_report(path, title="safe", protocol={HOSTILE: HOSTILE, "z" * 300: "z" * 900}, results=results)
    page.forget()
    page.look(width=width, height=800, phone=width < 700)
    page.open(path, "result=all")
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run("document.title") == "safe"
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(PLACE) == "1 to 8 of 8 rows"
    for name in ("split", "subcategory", "category"):
        for place in range(page.run(f"document.getElementById('f-{name}').options.length - 1")):
            page.run(f"document.getElementById('f-{name}').selectedIndex = {place + 1}")
            page.run(f"document.getElementById('f-{name}').dispatchEvent(new Event('change'))")
            assert page.run(PLACE) == "1 to 1 of 1 rows"
        page.run(f"document.getElementById('f-{name}').selectedIndex = 0")
        page.run(f"document.getElementById('f-{name}').dispatchEvent(new Event('change'))")
    assert page.said == []
    assert page.blocked == []


@pytest.mark.parametrize(
    "code",
    [
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title = 1\">')",
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))",
        "Object.assign(document.createElement('a'), {href: 'javascript:document.title = 1'}).click()",
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')",
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">')",
        "fetch('https://example.org/').catch(() => 0)",
    ],
)
def test_policy_stops_what_is_foreign(page: BrowserPage, mmmu: Shown, code: str) -> None:
    page.forget()
    page.open(mmmu.path)
    stopped = "new Promise((done) => document.addEventListener('securitypolicyviolation', () => done()))"
    page.run(f"(async () => {{ const stopped = {stopped}; {code}; await stopped; }})()")
    page.settle()
    assert page.blocked
    assert page.run("document.title") == "tiny on mmmu"
    assert not [address for address in page.requests if address.startswith("http")]


def test_all_rows_can_be_read_without_scripts(mmmu: Shown) -> None:
    assert BROWSER is not None
    with BrowserPage(BROWSER, scripts=False) as page:
        page.open(mmmu.path)
        found = page.texts("article h3")
        assert sorted(found) == sorted(f"Row {row.row.index}" for row in mmmu.rows)
        looked_at = {f"Row {row.row.index}" for row in mmmu.rows if not row.is_right}
        assert set(found[: len(looked_at)]) == looked_at
        assert not page.is_visible("#filters")
        assert not page.is_visible("#waiting")
        assert page.is_visible("article svg use")
        assert page.said == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True), (320, True)])
def test_fits_the_screen_and_can_be_read(page: BrowserPage, mmmu: Shown, width: int, phone: bool, dark: bool) -> None:
    page.look(width=width, height=800, dark=dark, phone=phone)
    page.open(mmmu.path, "result=all&size=60")
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run("document.documentElement.scrollWidth") <= width
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 21, 24)") == dark
    assert page.run(CONTRAST) == []


def test_every_control_has_a_name_and_headings_go_down(opened: BrowserPage) -> None:
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    controls = {"combobox", "searchbox", "textbox", "checkbox", "button", "link", "image", "img", "region"}
    unnamed = [n for n in nodes if _value(n, "role") in controls and not _value(n, "name") and not n.get("ignored")]
    assert unnamed == []
    levels = opened.run("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def _value(node: dict[str, Any], key: str) -> str:
    return str(node.get(key, {}).get("value", ""))


def test_keyboard_reaches_the_filters_and_turns_pages(opened: BrowserPage, mmmu: Shown) -> None:
    opened.press("Tab")
    assert opened.run("document.activeElement.textContent") == "To the rows"
    opened.run("document.querySelector('#pager .next').focus()")
    opened.press("Enter")
    assert opened.run(SHOWN) == names(mmmu.rows, lambda row: not row.is_right)[24:48]
    assert opened.run("document.activeElement.className") == "next"
    opened.press("Tab")
    assert opened.run("document.activeElement.id") == "reset"


def test_prints_without_its_controls(opened: BrowserPage) -> None:
    opened.look(width=900, height=900, media="print")
    hidden = "['filters', 'pager', 'pager-end'].map((id) => document.getElementById(id).checkVisibility())"
    assert opened.run(hidden) == [False, False, False]
    assert opened.run("document.querySelector('#list article').checkVisibility()")
    assert len(opened.call("Page.printToPDF")["data"]) > 10_000


def test_a_page_without_rows_says_so(page: BrowserPage, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    results = results_of(choice_rows(9, pictures=Pictures([])))
    write_report(path, title="none", protocol={}, results=results, max_megabytes=0.01)
    page.forget()
    page.open(path)
    assert page.run(PLACE) == "No row fits these filters."
    assert page.said == []


def test_ten_thousand_rows_show_no_more_than_a_page_of_them(page: BrowserPage, tmp_path: Path) -> None:
    rows = choice_rows(10_000, pictures=Pictures([]))
    path = tmp_path / "report.html"
    write_report(path, title="many", protocol={}, results=results_of(rows, rules=RULES[:2]))
    page.forget()
    page.look(width=1280, height=900)
    page.open(path, "result=all&page=300")
    assert page.run(PLACE) == "7177 to 7200 of 10,000 rows"
    assert page.run("document.querySelectorAll('*').length") < 6000
    page.choose("search", "label 9999 ")
    assert page.run(SHOWN) == ["9999"]
    assert page.said == []
