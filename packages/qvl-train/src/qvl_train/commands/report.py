"""`qvl report RUN...`: the page of a training, of several beside each other, or of one that goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qvl_core.errors import NotInstalledError

if TYPE_CHECKING:
    from qvl_train.report.run_history import RunHistory

_MOST_RUNS = 12
_MOST_LINE = 1000


def register(app: typer.Typer) -> None:
    """Add `qvl report` to the `qvl` app."""

    @app.command("report")
    def report(
        runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of trainings: output.dir.")],
        out: Annotated[
            Path | None,
            typer.Option(
                "--out", metavar="FILE", help="The page. Default: RUN/report.html; of several, ./comparison.html."
            ),
        ] = None,
        watch: Annotated[
            bool, typer.Option("--watch", help="Serve the page on this machine, live, until Ctrl-C; write nothing.")
        ] = False,
        port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of --watch; 0: any free one.")] = 8011,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace any file in the page's place.")] = False,
        samples: Annotated[
            bool, typer.Option("--samples/--no-samples", help="Show some training records and answers on the page.")
        ] = True,
    ) -> None:
        """Write one page about a training, or about several and what differs between them.

        Loss, validation, throughput, memory, where a step's time went, learning rate, samples. The page loads nothing.
        Works while a run goes on, and on folders that a crash has left half-written. Exit 2 for another folder.
        """
        from qvl_train.report.run_history import open_runs

        _require_pages()
        _check(runs, out, watch=watch)
        found = open_runs(runs)
        if watch:
            _watch(found, port, samples=samples)
        else:
            _write(found, _target(runs, out), overwrite=overwrite, samples=samples)


def _require_pages() -> None:
    try:
        import qvl_data.inspection.page  # noqa: F401 (its absence has a name and a fix)
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"qvl report\n  pages are drawn by the package qvl-data, which cannot be loaded: {error}\n"
            "  fix: pip install qvl-data"
        ) from None


def _check(runs: list[Path], out: Path | None, *, watch: bool) -> None:
    if watch and out is not None:
        raise typer.BadParameter(
            "--watch serves the page and writes none; leave one of the two out", param_hint="--out"
        )
    if len(runs) > _MOST_RUNS:
        raise typer.BadParameter(f"{len(runs)} runs; a page shows {_MOST_RUNS} at most", param_hint="RUN")
    resolved = [os.path.realpath(run) for run in runs]
    twice = [run for place, run in enumerate(runs) if resolved[place] in resolved[:place]]
    if twice:
        raise typer.BadParameter(f"{twice[0]} is named twice", param_hint="RUN")


def _target(runs: list[Path], out: Path | None) -> Path:
    from qvl_train.report.run_page import COMPARISON, PAGE

    if out is not None:
        return out
    return runs[0] / PAGE if len(runs) == 1 else Path(COMPARISON)


def _write(runs: list[RunHistory], target: Path, *, overwrite: bool, samples: bool) -> None:
    from qvl_core.cli.terminal import bytes_text
    from qvl_core.input_file import printable
    from qvl_data.inspection.page_file import write_page

    from qvl_train.report.run_page import MAKER, run_page
    from qvl_train.report.samples_card import SamplesCards

    text = run_page(runs, samples=SamplesCards() if samples else None)
    # The folder of somebody else's run, often.
    fix = "--out FILE names another place for the page"
    write_page(target, text, overwrite=overwrite, maker=MAKER, fix=fix)
    typer.echo(f"{printable(str(target))}: {bytes_text(target.stat().st_size)}")
    for run in runs:
        for notice in run.notices():
            typer.echo(printable(f"{run.name}: {notice}", _MOST_LINE), err=True)


def _watch(runs: list[RunHistory], port: int, *, samples: bool) -> None:
    from qvl_train.report.live import LiveRuns, LiveServer
    from qvl_train.report.samples_card import SamplesCards

    with LiveServer(LiveRuns(runs, SamplesCards() if samples else None), port) as server:
        try:
            typer.echo(f"{server.address} shows {', '.join(run.name for run in runs)}; Ctrl-C ends it")
            server.serve_forever()
        except KeyboardInterrupt:
            # The way to end it is no failure.
            typer.echo("ended")
