"""The counts of packs survive several writers, a cut line and a folder that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_data.streaming.pack_memory import PackMemory


def test_counts_are_read_again_also_when_several_ranks_wrote_them(tmp_path: Path) -> None:
    first, second = (PackMemory(tmp_path / "cache" / "packs.txt") for _ in range(2))
    for count in (7, 9, 8):
        first.add(count)
        second.add(count)
    assert PackMemory(tmp_path / "cache" / "packs.txt").counts == [7, 9, 8] == first.counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [("0 7\n1 9\n2 1", [7, 9]), ("0 7\n2 8\n", [7]), ("1 9\n", []), ("0 7\nx y\n1 2 3\n1 9\n", [7, 9]), ("", [])],
)
def test_only_whole_lines_without_a_gap_count(tmp_path: Path, text: str, counts: list[int]) -> None:
    (tmp_path / "packs.txt").write_text(text)
    assert PackMemory(tmp_path / "packs.txt").counts == counts


def test_a_folder_that_cannot_be_made_is_said_and_counts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    memory = PackMemory(tmp_path / "cache" / "packs.txt")
    memory.add(3)
    assert memory.counts == [3]
    assert "cannot be written" in caplog.text
