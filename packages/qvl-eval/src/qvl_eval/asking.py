"""A benchmark's row as the question that the model gets: its prompt, its key, and the job for the scheduler."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, InputError, Problem
from qvl_core.input_file import printable

from qvl_eval.prompts import Asked, Picture, PromptError, PromptFamily, PromptPart, prompt_parts

if TYPE_CHECKING:
    from qvl_core.generate import GenerationOptions
    from qvl_data.processor import Processor
    from qvl_data.prompt import Message

    from qvl_eval.answers.job import Job
    from qvl_eval.benchmarks import Benchmark
    from qvl_eval.protocol import Protocol
    from qvl_eval.tsv import Row


@dataclass(frozen=True, kw_only=True)
class PreparedRow:
    """A row with its pictures read. `refused` says why it cannot be asked; then there is no job.

    `sizes` are (height, width) of the pictures after resizing, pixels, in the order in which they are shown.
    """

    row: Row
    key: str
    job: Job | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    refused: str = ""

    @property
    def media_bytes(self) -> int:
        """Count the bytes of the patches, which are held until the prompt is run."""
        return int(self.job.prompt.patches.nbytes) if self.job is not None else 0


def prompt_text(parts: Sequence[PromptPart]) -> str:
    """Give a prompt as people read it: pictures as their numbers in brackets."""
    return "".join(part if isinstance(part, str) else f"[picture {part.number + 1}]\n" for part in parts)


def parts_of(benchmark: Benchmark, family: PromptFamily, row: Row) -> tuple[PromptPart, ...]:
    """Give the prompt of a row. Raises DataError, with the row's line, where its text does not fit its pictures."""
    asked = Asked(
        question=row.question,
        options=row.options,
        hint=row.columns.get("hint", ""),
        pictures=len(row.digests),
    )
    try:
        return prompt_parts(benchmark.kind, family, asked)
    except PromptError as error:
        where = f"{row.pictures.file.path}:{row.line}"
        key = f"row {printable(row.index, 60)}, question"
        fix = "ask with --set eval.prompts=custom, which shows all pictures first, or mend the row"
        raise DataError(Problem(where=where, key=key, message=str(error), fix=fix)) from None


def key_of(protocol: Protocol, row: Row, parts: Sequence[PromptPart]) -> str:
    """Give the sha256 of all that decides the answer to a row: the protocol, its index, its prompt, its pictures."""
    shown = [part if isinstance(part, str) else row.digests[part.number] for part in parts]
    kinds = ["text" if isinstance(part, str) else "picture" for part in parts]
    content = [protocol.digest, row.index, kinds, shown]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def messages_of(parts: Sequence[PromptPart], images: Sequence[bytes]) -> tuple[Message, ...]:
    """Give the conversation of a prompt: one turn of the user, no system text but the template's own."""
    from qvl_data.prompt import Message, PromptImage

    shown = [PromptImage(source=images[part.number]) if isinstance(part, Picture) else part for part in parts]
    return (Message(role="user", parts=tuple(part for part in shown if part != "")),)


def prepare_row(
    row: Row,
    parts: Sequence[PromptPart],
    key: str,
    processor: Processor,
    options: GenerationOptions,
    *,
    window: int,
) -> PreparedRow:
    """Read the pictures of a row and tokenise its prompt; a row that cannot be asked says why."""
    from qvl_eval.answers.job import make_job

    where = f"{row.pictures.file.path}:{row.line}"
    try:
        job = make_job(processor, messages_of(parts, row.images), options, job_id=row.index, window=window, where=where)
    except InputError as error:
        return PreparedRow(row=row, key=key, refused="; ".join(problem.message for problem in error.problems))
    patch = processor.spec.vision.patch_size
    sizes = tuple((int(height) * patch, int(width) * patch) for _, height, width in job.prompt.grids)
    return PreparedRow(row=row, key=key, job=job, sizes=sizes)
