"""What a person sees of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from qvl_eval.compare import CONFIDENCE, Comparison
from qvl_eval.score.judged import Judged
from qvl_eval.show_scores import short


def show_comparison(console: Console, comparison: Comparison, *, shown: int) -> None:
    """Print difference, interval and test, then the first rows that B won and lost."""
    c = comparison
    clusters = "each row by itself" if c.clusters == c.rows else f"{c.clusters:,} clusters of rows that share a picture"
    interval = f"{100 * CONFIDENCE:.0f} % interval {c.low:+.2f} to {c.high:+.2f} points"
    lines = [
        f"{c.benchmark}, rules {c.rules}, {c.rows:,} rows of {short(c.rows_of)} ({clusters})",
        f"A {c.percent_a:.2f} %, B {c.percent_b:.2f} %: B - A = {c.difference:+.2f} points",
        f"{interval} (paired bootstrap, {c.resamples:,} resamples, seed {c.seed})",
        f"B won {len(c.won):,} rows and lost {len(c.lost):,}; exact McNemar test over rows: p = {c.p_rows:.4g}",
    ]
    if c.clusters != c.rows:
        counted = f"B won {c.clusters_won:,} clusters and lost {c.clusters_lost:,}"
        lines.append(f"{counted}; the same test over clusters, each counted once: p = {c.p_clusters:.4g}")
    for line in lines:
        console.print(line, highlight=False)
    for note in c.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    _show_rows(console, "won by B", c.won, shown)
    _show_rows(console, "lost by B", c.lost, shown)


def _show_rows(console: Console, title: str, pairs: Sequence[tuple[Judged, Judged]], shown: int) -> None:
    if not pairs or not shown:
        return
    table = Table(title=f"{title}: {len(pairs):,} rows", title_justify="left")
    for name in ("index", "reference", "A", "", "B", ""):
        table.add_column(name)
    for a, b in pairs[:shown]:
        table.add_row(
            *(short(a.row.index), short(a.row.answer), short(a.row.prediction), f"{a.score:.3g}"),
            *(short(b.row.prediction), f"{b.score:.3g}"),
        )
    console.print(table)
    if len(pairs) > shown:
        console.print(f"and {len(pairs) - shown:,} more: --format json has all", highlight=False)
