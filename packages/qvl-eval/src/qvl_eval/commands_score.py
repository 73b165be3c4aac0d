"""`qvl score` and `qvl eval compare`. Imports are light; each command does its own when it is run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """How a result is written."""

    text = "text"
    json = "json"


Benchmark = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        metavar="NAME",
        help="ai2d_test, chartqa_test, docvqa_val, mmmu_dev_val or digits_test; a run folder knows its own.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="TSV",
        help="The benchmark's file, for what the answers lack; joined by index.",
        show_default=False,
    ),
]
Output = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]
Shown = Annotated[int, typer.Option("--show", min=0, max=1_000_000, help="Rows listed; all are counted.")]


def register(app: typer.Typer) -> None:
    """Add `score` and the group `eval` to the `qvl` app."""
    app.command("score")(score)
    group = typer.Typer(no_args_is_help=True, help="Compare evaluations.")
    # With a callback a group of one command keeps the command's name.
    group.callback()(_group)
    group.command("compare")(compare)
    app.add_typer(group, name="eval")


def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="A run folder, its predictions.jsonl, or an answer file of VLMEvalKit or MindSpeed-MM.",
            show_default=False,
        ),
    ],
    benchmark: Benchmark = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules",
            metavar="NAME",
            help="A rule set; several are shown side by side. Without it those of the headline.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write answers as .xlsx, scores as .csv and .json.", show_default=False
        ),
    ] = None,
    as_upstream: Annotated[
        bool, typer.Option("--as-upstream", help="DocVQA: let blanks at the ends of a reply raise its score.")
    ] = False,
    show: Shown = 20,
    format: Output = Format.text,  # noqa: A002 (the option's name)
) -> int:
    """Score answers under one or several rule sets, without the model. Exit 0 scored, 2 wrong input."""
    import json

    from qvl_eval.rescore import rescore, rescored_json

    rescored = rescore(predictions, benchmark, rules or (), data=data, as_upstream=as_upstream)
    written: tuple[Path, ...] = ()
    if out is not None:
        from qvl_eval.answer_files.score_files import write_score_files

        written = write_score_files(
            out, rescored.answers.model, rescored.benchmark, rescored.results, sources=[rescored.answers.path]
        )
    if format is Format.json:
        content = {**rescored_json(rescored), "written": [str(path) for path in written]}
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        return 0
    from qvl_eval.show_scores import report_console, show_rescored

    console = report_console()
    show_rescored(console, rescored, shown=show)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder or file of answers.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, to the same rows.", show_default=False)],
    benchmark: Benchmark = None,
    rules: Annotated[
        str | None,
        typer.Option("--rules", metavar="NAME", help="A rule set; the headline's without it.", show_default=False),
    ] = None,
    data: Data = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the resamples.")] = 0,
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, max=1_000_000, help="Resamples of the clusters.")
    ] = 10_000,
    show: Shown = 20,
    format: Output = Format.text,  # noqa: A002 (the option's name)
) -> int:
    """Compare two evaluations row by row: B - A with its interval, an exact test, rows won and lost.

    Exit 0 compared, 2 wrong input: other data, other rows.
    """
    import json

    from qvl_eval import compare as work

    comparison = work.compare(a, b, benchmark, rules, data=data, seed=seed, resamples=resamples)
    if format is Format.json:
        content = {"a": str(a), "b": str(b), **work.comparison_json(comparison)}
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        return 0
    from qvl_eval.show_comparison import show_comparison
    from qvl_eval.show_scores import report_console

    show_comparison(report_console(), comparison, shown=show)
    return 0


def _group() -> None:
    """Compare evaluations."""
