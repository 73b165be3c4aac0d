"""A run that may skip bad samples names them in its folder; on all ranks of a replica they are the same."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core.layout import Layout
from qvl_core.recipe import load_recipe
from qvl_data.batching.bad_samples import Unusable
from qvl_train.bad_sample_file import bad_samples_of, totals_of
from sharded_folders import divisible_spec
from thread_worlds import run_ranks

LAYOUT = Layout(tp=2, pp=2, dp=2, vision_stages=(2, 0), text_stages=(1, 2))


def recipe(policy: str = "skip", limit: int = 5) -> Any:
    return SimpleNamespace(data=SimpleNamespace(on_bad_sample=policy, max_bad_samples=limit))


def bad(line: int, kind: Any = "bad") -> Unusable:
    return Unusable(where=f"a.jsonl:{line}", reason="is broken", kind=kind)


def test_one_rank_of_each_replica_writes_and_all_know_the_total(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def work(world: Any) -> list[str]:
        found = bad_samples_of(recipe(), world, tmp_path)
        for line in (1, 2)[: 1 + world.place.dp]:
            found.meet(bad(10 * world.place.dp + line))
            found.meet(bad(10 * world.place.dp + line))
        found.meet(bad(7, "too_long"))
        return totals_of(found, world)

    told = run_ranks(LAYOUT, work, spec=divisible_spec(tied=True))
    assert told == [["bad samples left out: 3, listed in bad_samples.jsonl", "too long samples replaced: 2"]] * 8
    lines = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted((line["where"], line["replica"]) for line in lines) == [
        ("a.jsonl:1", 0), ("a.jsonl:11", 1), ("a.jsonl:12", 1),
    ]  # fmt: skip
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 3


def test_nothing_bad_is_no_file_and_no_line(tmp_path: Path) -> None:
    def work(world: Any) -> list[str]:
        return totals_of(bad_samples_of(recipe(), world, tmp_path), world)

    assert run_ranks(LAYOUT, work, spec=divisible_spec(tied=True)) == [[]] * 8
    assert not list(tmp_path.iterdir())


def cut_short(project: Path, number: int) -> str:
    """Cut a picture of the project in half; give the place of its record."""
    record = json.loads((project / "train.json").read_text())[number]
    image = project / record["image"]
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    # One record a line, as JSON Lines.
    records = json.loads((project / "train.json").read_text())
    (project / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return f"train.jsonl:{number + 1}"


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_run_passes_over_a_picture_found_broken_and_says_so(
    project: Path, streaming: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mindspore", reason="training runs the model")
    from whole_runs import train

    where = cut_short(project, 3)
    settings = (
        'data.sources=[{path="train.jsonl",format="llava",media_root="."}]',
        f"data.streaming={streaming}",
        "data.media_check=header",
        "train.steps=6",
    )
    assert train(*settings, "data.on_bad_sample=skip") == 0
    (line,) = (project / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == where
    assert "bad samples left out: 1, listed in bad_samples.jsonl" in capsys.readouterr().out
    assert load_recipe("recipe.toml", settings).data.on_bad_sample == "stop"
