"""Reports for tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from qvl_core.errors import Problem
from qvl_data.inspection.figures import length_totals
from qvl_data.inspection.histogram import length_histogram
from qvl_data.inspection.kinds import ProblemGroup, in_order
from qvl_data.inspection.report import (
    CheckReport,
    EpochTotals,
    ExampleSample,
    LongSample,
    MediaTotals,
    Packs,
    SourceCount,
    Thumbnail,
    TokenTotals,
)

HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=\"alert('x')\">\u202e\x1b[31m"


def clean_report() -> CheckReport:
    """Give the report of 1,000 good samples, nothing found."""
    lengths = np.random.default_rng(0).integers(40, 900, 1000)
    return CheckReport(
        recipe="recipes/my.toml",
        model="qwen2.5-vl-7b",
        sequence_length=1024,
        too_long="drop",
        packing=False,
        decoded=False,
        seconds=12.34,
        sources=(
            SourceCount(
                path="data/llava.json",
                format="llava",
                records=1000,
                usable=1000,
                dropped=0,
                shrunk=0,
                wrong=0,
                weight=1.5,
            ),
        ),
        lengths=length_totals(lengths),
        histogram=length_histogram(lengths, np.zeros(0, np.int64), 1024),
        tokens=TokenTotals(text=300_000, image=150_000, video=20_123),
        epoch=EpochTotals(samples=1500, tokens=705_184, items_per_step=192, epochs=3),
        media=MediaTotals(images=800, videos=12, bytes=123_456_789),
        longest=(LongSample(where="data/llava.json:77", tokens=899, text=99, image=800, video=0),),
    )


def bad_report(text: str = HOSTILE) -> CheckReport:
    """Give a report with problems, packs and examples, in which every text of the data is `text`."""
    wrong = Problem(where=f"{text}:7", key=text, message=text, fix=text)
    said = Problem(where=f"{text}:8", message=text, severity="warning")
    sources = clean_report().sources
    return replace(
        clean_report(),
        recipe=text,
        model=text,
        packing=True,
        sources=(
            replace(sources[0], path=text, records=1030, wrong=23, dropped=7),
            replace(sources[0], path=text, weight=None),
        ),
        validation_samples=40,
        validation_from=f"from {text}",
        groups=in_order(
            [
                ProblemGroup(kind="missing", count=23, examples=(wrong,) * 20),
                ProblemGroup(kind="too_long", count=7, examples=(said,) * 7, is_error=False),
                ProblemGroup(kind="duplicate", count=1, examples=(said,), is_error=False),
            ]
        ),
        epoch=EpochTotals(samples=1500, tokens=705_184, items_per_step=8, packs=Packs(count=700, fill=0.984), steps=90),
        longest=(LongSample(where=text, tokens=899, text=99, image=800, video=0),),
        examples=tuple(
            ExampleSample(
                why=why,
                where=text,
                tokens=50,
                turns=(("user", text), ("assistant", text)),
                thumbnails=(
                    Thumbnail(caption=text, uri="data:image/png;base64,AAAA", width=8, height=8),
                    Thumbnail(caption=text, error=text),
                ),
                hidden_media=3,
            )
            for why in ("longest", "dropped", "random")
        ),
    )
