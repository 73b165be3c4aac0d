"""What a check found, as plain values: the one source of the text, the JSON and the HTML page.

Tokens are counted exactly as training will see them: text, special tokens of the chat template, and the tokens of
images and videos after resizing. Sizes are in tokens, pixels or bytes as named; nothing here holds a whole data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qvl_data.inspection.kinds import ProblemGroup

if TYPE_CHECKING:
    from qvl_data.sample_figures import DataFigures

Why = Literal["longest", "dropped", "random", "first"]


@dataclass(frozen=True, kw_only=True)
class SourceCount:
    """One file of records. records = usable + dropped + wrong; shrunk ones are usable.

    `dropped` were longer than the limit; `wrong` have problems. `weight` is None for the file of validation samples.
    """

    path: str
    format: str
    records: int
    usable: int
    dropped: int
    shrunk: int
    wrong: int
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Samples by length, in bins of equal width: bin i holds lengths in [edges[i], edges[i + 1]) tokens.

    `used` counts what training uses, `dropped` what was too long. The last bin also holds what is longer than its edge
    where `is_open`.
    """

    edges: tuple[int, ...]
    used: tuple[int, ...]
    dropped: tuple[int, ...]
    limit: int
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class LengthTotals:
    """Lengths of the training samples, tokens; percentiles are of samples and always lengths that occur."""

    shortest: int
    mean: float
    median: int
    p90: int
    p99: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class TokenTotals:
    """Tokens of all training samples, each counted once, by what they stand for."""

    text: int
    image: int
    video: int

    @property
    def all(self) -> int:
        """Their sum."""
        return self.text + self.image + self.video


@dataclass(frozen=True, kw_only=True)
class Packs:
    """Packs of an epoch: how many, and the part of their places, packs x sequence_length, that holds tokens."""

    count: int
    fill: float


@dataclass(frozen=True, kw_only=True)
class EpochTotals:
    """One epoch of training. `samples` and `tokens` follow the sources' weights; a step takes `items_per_step` samples,
    or packs where the recipe packs. `steps` is the recipe's own number of steps, None where it counts epochs."""

    samples: int
    tokens: int
    items_per_step: int
    packs: Packs | None = None
    steps: int | None = None
    epochs: int | None = None

    @property
    def items(self) -> int:
        """What the steps consume: samples or packs."""
        return self.samples if self.packs is None else self.packs.count

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one epoch; a fraction where a step takes the rest from the next epoch."""
        return self.items / self.items_per_step


@dataclass(frozen=True, kw_only=True)
class MediaTotals:
    """Different media files of the records and their size on disk."""

    images: int
    videos: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class LongSample:
    """One of the longest samples, by name."""

    where: str
    tokens: int
    text: int
    image: int
    video: int


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture of a medium as a data URI, or why there is none. `caption` names the file and its size.

    Without `uri` and `error` it is a medium that is named only.
    """

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ExampleSample:
    """A record to look at: why it is shown, its beginning as (role, text), its first media.

    `tokens` is None where nobody has counted them.
    """

    why: Why
    where: str
    tokens: int | None
    turns: tuple[tuple[str, str], ...]
    thumbnails: tuple[Thumbnail, ...] = ()
    hidden_media: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Everything that `qvl data check` says of a recipe.

    What cannot be known where the recipe or all data are wrong is None or empty. `examples` are filled
    for the page only. `figures` are what planning wants, `kept` the file that the command keeps them in;
    `lengths_depend_on` are the settings with which they hold.
    """

    recipe: str
    model: str
    sequence_length: int
    too_long: str
    packing: bool
    decoded: bool
    seconds: float
    sources: tuple[SourceCount, ...] = ()
    validation_samples: int = 0
    validation_from: str = ""
    groups: tuple[ProblemGroup, ...] = ()
    lengths: LengthTotals | None = None
    histogram: Histogram | None = None
    tokens: TokenTotals | None = None
    epoch: EpochTotals | None = None
    media: MediaTotals | None = None
    longest: tuple[LongSample, ...] = ()
    figures: DataFigures | None = None
    kept: Path | None = None
    lengths_depend_on: Mapping[str, Any] | None = None
    examples: tuple[ExampleSample, ...] = ()

    @property
    def errors(self) -> int:
        """Count the problems that make the data unusable."""
        return sum(group.count for group in self.groups if group.is_error)

    @property
    def warnings(self) -> int:
        """Count what is only said."""
        return sum(group.count for group in self.groups if not group.is_error)

    @property
    def is_clean(self) -> bool:
        """Whether training can start."""
        return self.errors == 0

    @property
    def records(self) -> int:
        """Count the records of all files."""
        return sum(source.records for source in self.sources)
