"""Reports on terminals of every encoding."""

from __future__ import annotations

import io
import json
import sys

import pytest
from qvl_core.cli.plain_text import print_text

TEXT = json.dumps({"a": "ü 图片 \U0001f600"}, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "gb18030"])
def test_what_cannot_be_shown_is_escaped_and_json_stays_json(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    print_text(TEXT)
    shown = raw.getvalue().decode(encoding)
    assert json.loads(shown) == json.loads(TEXT)
    assert (shown.strip() == TEXT) == (encoding in ("utf-8", "gb18030"))
