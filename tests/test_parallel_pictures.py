"""Pictures and figures of docs/parallel.md are what the code that they explain gives."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from qvl_core import load_recipe

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]

import bubble  # noqa: E402 (a script beside the packages)
import make_parallel_pictures  # noqa: E402 (as above)

PAGE = (ROOT / "docs" / "parallel.md").read_text(encoding="utf-8")
PICTURES = make_parallel_pictures.pictures()


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Any]]:
    return {
        name.partition("_")[0]: bubble.simulated(load_recipe(str(ROOT / "recipes" / f"{name}.toml")), seed=0)
        for name in bubble.RECIPES
    }


@pytest.mark.parametrize("name", PICTURES)
def test_committed_picture_is_up_to_date(name: str) -> None:
    committed = (ROOT / "docs" / "img" / name).read_text(encoding="utf-8")
    assert committed == PICTURES[name], "run python tools/make_parallel_pictures.py"


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_shown_on_the_page_and_has_words_for_who_cannot_see_it(name: str) -> None:
    assert f"](img/{name})" in PAGE
    root = ElementTree.fromstring(PICTURES[name])
    space = "{http://www.w3.org/2000/svg}"
    assert root.attrib["role"] == "img"
    assert all((root.findtext(f"{space}{tag}") or "").strip() for tag in ("title", "desc"))


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_drawn_outside_the_page(name: str) -> None:
    root = ElementTree.fromstring(PICTURES[name])
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(box.get("x", "0")) + float(box.attrib["width"]) <= width
        assert float(box.get("y", "0")) + float(box.attrib["height"]) <= height


def test_table_of_bubbles_is_what_the_benchmark_gives(figures: dict[str, dict[str, Any]]) -> None:
    names = {"its recipe": "recipe", "derived": "derived", "balanced": "balanced"}
    rows = re.findall(
        r"^\| (\w*) +\| ([\d, ]+) \(([\w ]+)\) \| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) \|", PAGE, re.M
    )
    assert [row[2] for row in rows] == ["one stage", *list(names) * 3]
    size = ""
    for stated, stages, kind, micro_batches, ideal, idle, step in rows:
        size = stated or size
        figure = figures[size]["same size, recompute tape"][names.get(kind, "recipe")]
        assert [int(count) for count in stages.split(",")] == figure["text_stages"], (size, kind)
        assert int(micro_batches) == figures[size]["micro_batches"]
        assert float(ideal) == round(100 * figures[size]["ideal"], 1)
        assert float(idle) == round(100 * figure["bubble"], 1)
        assert float(step) == round(figure["step"], 2)


def test_cost_of_varied_sizes_is_what_the_benchmark_gives(figures: dict[str, dict[str, Any]]) -> None:
    same, varied, in_order = (
        f"{100 * figures['72b'][f'{sizes}, recompute tape']['recipe']['bubble']:.0f}"
        for sizes in ("same size", "varied", "varied, sorted")
    )
    page = " ".join(PAGE.split())
    assert (
        f"bubble of the 72B recipe goes from {same} to {varied} %. Sorted by size within the step it is {in_order} %"
        in page
    )


def test_python_on_the_page_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    exec(compile(code, "docs/parallel.md", "exec"), {})
    assert capsys.readouterr().out == "4.4%, ideal 3.0%\n"
