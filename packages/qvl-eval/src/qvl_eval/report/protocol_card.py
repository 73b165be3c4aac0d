"""Under which conditions the answers were given: everything that has to be the same for scores to be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qvl_data.inspection.markup import Html, element, join
from qvl_data.inspection.page import card

from qvl_eval.report.cut_text import cut

# A prompt template or a long list is cut; `run.json` has all of it.
_MOST_CHARACTERS = 2000
_MOST_LINES = 400


def protocol_card(protocol: Mapping[str, Any]) -> Html | None:
    """Give the protocol as names and values, tables in it by dotted names."""
    lines = list(_leaves(protocol))
    if not lines:
        return None
    listed = [
        join(element("dt", name), element("dd", cut(text, _MOST_CHARACTERS))) for name, text in lines[:_MOST_LINES]
    ]
    more = len(lines) - _MOST_LINES
    rest = element("p", f"and {more:,} more values", class_="soft small") if more > 0 else None
    return card("Protocol", element("dl", *listed, class_="protocol"), rest, id="protocol")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, json.dumps(value, ensure_ascii=False, default=str)
