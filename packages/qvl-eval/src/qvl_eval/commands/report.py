"""`qvl eval report`: the page of an evaluation, written again from its folder, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qvl_core.cli.parameters import finite

if TYPE_CHECKING:
    from qvl_eval.report.run_folder import AskedRows, EvaluationFolder

_PAGE = "report.html"


def register(evaluation: typer.Typer) -> None:
    """Add `report` to the group `qvl eval`."""

    @evaluation.command("report")
    def report(
        folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a finished evaluation.")],
        data: Annotated[
            Path | None,
            typer.Option(
                metavar="TSV", help="The benchmark's file, for the pictures; where it was at the run without this."
            ),
        ] = None,
        out: Annotated[
            Path | None, typer.Option(metavar="FILE", help="The page; FOLDER/report.html without it.")
        ] = None,
        rules: Annotated[
            list[str] | None,
            typer.Option("--rules", metavar="NAME", help="Score by this rule set instead; may be repeated."),
        ] = None,
        max_megabytes: Annotated[
            float,
            typer.Option("--max-megabytes", min=1, max=1000, callback=finite, help="Size that the page may have."),
        ] = 32,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace any file in the page's place.")] = False,
    ) -> None:
        """Write the HTML report of an evaluation: charts, the rows to look at with pictures, and what they rest on.

        Exit 0 written, 2 not the folder of a finished evaluation, or not its benchmark's file.
        """
        from qvl_core.cli.terminal import bytes_text
        from qvl_data.inspection.page_file import require_page_place
        from qvl_data.inspection.phrases import counted

        from qvl_eval.report.run_folder import read_evaluation
        from qvl_eval.report.write_report import MAKER, write_report

        target = out if out is not None else folder / _PAGE
        require_page_place(target, overwrite=overwrite, maker=MAKER)
        evaluation = read_evaluation(folder)
        results = evaluation.results(rules or ())
        asked = _asked(evaluation, data)
        write_report(
            target,
            title=evaluation.title,
            protocol=evaluation.protocol,
            results=results,
            pictures=asked.pictures if asked is not None else None,
            prompts=asked.prompt if asked is not None else None,
            max_megabytes=max_megabytes,
            more=f"qvl eval report {folder} --max-megabytes {min(1000, round(10 * max_megabytes))}",
            overwrite=overwrite,
        )
        typer.echo(f"{target}: {bytes_text(target.stat().st_size)}, {counted(len(evaluation.rows), 'row')}")


def _asked(evaluation: EvaluationFolder, data: Path | None) -> AskedRows | None:
    """Read the benchmark's file. Where it is not given and not where it was, say that there will be no pictures."""
    from qvl_eval.report.run_folder import AskedRows

    path = data if data is not None else Path(evaluation.data_file)
    if data is None and not (evaluation.data_file and path.is_file()):
        where = evaluation.data_file or "the folder does not say where it was"
        typer.echo(f"no pictures: the benchmark's file is not there ({where}); add --data TSV", err=True)
        return None
    return AskedRows(path, evaluation)
