"""The problems of a report with a filter that needs no script: radio buttons and a few rules of CSS."""

from __future__ import annotations

from collections.abc import Sequence

from qvl_core.errors import Problem

from qvl_data.inspection.kinds import ProblemGroup
from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card

# Of each kind, while all kinds are shown; the filter shows all examples of its kind.
_SHOWN_OF_ALL = 5


def problems_card(groups: Sequence[ProblemGroup]) -> Html:
    """Give the section with all groups; `filter_rules` makes its buttons work."""
    if not groups:
        return card("Problems", element("p", "None found."))
    radios = [element("input", type="radio", name="kind", id="k-all", class_="pick", checked=True)]
    labels = [element("label", "all", element("b", f"{sum(f.count for f in groups):,}"), for_="k-all")]
    listed: list[Html] = []
    for group in groups:
        name = _filter_name(group)
        radios.append(element("input", type="radio", name="kind", id=name, class_="pick"))
        tone = "bad" if group.is_error else "warn"
        labels.append(element("label", group.title, element("b", f"{group.count:,}"), for_=name, class_=tone))
        listed += [
            _problem(problem, f"{name} late" if place >= _SHOWN_OF_ALL else name)
            for place, problem in enumerate(group.examples)
        ]
        hidden = group.count - len(group.examples)
        if hidden:
            text = f"and {hidden:,} more of this kind"
            listed.append(element("div", text, class_=f"more problem {name} late"))
    chips = element("div", *labels, class_="chips")
    return card("Problems and warnings", *radios, chips, element("div", *listed, class_="problems"))


def _problem(problem: Problem, name: str) -> Html:
    is_error = problem.severity == "error"
    mark = element("span", "problem" if is_error else "warning", class_=f"tag {'bad' if is_error else 'warn'}")
    key = element("span", f" {problem.key}", class_="soft") if problem.key else None
    return element(
        "div",
        element("div", element("code", problem.where), key, " ", mark, class_="where"),
        element("p", problem.message),
        element("p", f"fix: {problem.fix}", class_="fix") if problem.fix else None,
        class_=f"problem {name}",
    )


def _filter_name(group: ProblemGroup) -> str:
    return f"k-{'e' if group.is_error else 'w'}-{group.kind}"


def filter_rules(groups: Sequence[ProblemGroup]) -> str:
    """Give the CSS that makes the radio buttons filter. Names of kinds are our own: nothing of a record is in it."""
    rules = []
    for name in ("k-all", *(_filter_name(group) for group in groups)):
        rules.append(
            f"#{name}:checked ~ .chips label[for={name}] {{ background: var(--ink); color: var(--card); }}\n"
            f"#{name}:checked ~ .chips label[for={name}] b {{ color: inherit; }}\n"
            f"#{name}:focus-visible ~ .chips label[for={name}] {{ outline: 2px solid var(--used); }}\n"
        )
        if name != "k-all":
            rules.append(f"#{name}:checked ~ .problems .problem:not(.{name}) {{ display: none; }}\n")
    return "".join(rules)
