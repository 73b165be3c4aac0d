"""What a run is told of its data before the first step."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.errors import Problem


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What `prepare` found. `tokens` and `longest` are of the samples that training uses, in tokens.

    `validation_from` says where the validation samples come from, "" without any.
    """

    records: int
    train_samples: int
    validation_samples: int
    validation_from: str
    dropped: int
    shrunk: int
    images: int
    videos: int
    tokens: int
    longest: int
    epoch_length: int
    notes: tuple[Problem, ...]  # The first too long samples and what became of them.
    bad: int = 0
    bad_examples: tuple[Problem, ...] = ()  # The first bad records, which data.on_bad_sample = "skip" leaves out.
    pack_tokens: int = 0  # Room of a pack, 0 without packing: then `epoch_length` counts samples, else packs.
    is_streamed: bool = False  # Nothing is known of the training samples but how many records there are.

    def lines(self) -> list[str]:
        """Say it in a few lines for people."""
        if self.is_streamed:
            lines = [f"{self.train_samples:,} records to stream, each checked when it is used"]
            held = f"{self.validation_samples:,} validation samples, {self.validation_from}"
            return [*lines, held] if self.validation_samples else lines
        mean = self.tokens / max(1, self.train_samples)
        videos = f" and {_count(self.videos, 'video')}" if self.videos else ""
        lines = [
            f"{_count(self.records, 'record')} with {_count(self.images, 'image')}{videos} checked",
            f"{self.train_samples:,} training samples of {mean:,.0f} tokens on average, at most {self.longest:,}",
        ]
        if self.pack_tokens:
            lines.append(f"{self.epoch_length:,} packs of at most {self.pack_tokens:,} tokens an epoch")
        if self.validation_samples:
            lines.append(f"{self.validation_samples:,} validation samples, {self.validation_from}")
        if self.dropped or self.shrunk:
            lines.append(f"too long: {self.dropped:,} dropped, {self.shrunk:,} shrunk")
            lines += [f"  {note.where}: {note.message}" for note in self.notes]
        if self.bad:
            shown = f", the first {len(self.bad_examples)}" if self.bad > len(self.bad_examples) else ""
            lines.append(f"bad: {self.bad:,} records left out{shown}:")
            lines += [f"  {one.where}: {one.message}" for one in self.bad_examples]
        return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
