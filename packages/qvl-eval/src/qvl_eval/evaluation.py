"""A checked evaluation: what is asked, of which rows, under which protocol, and where it goes. Imports no mindspore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, Problem

from qvl_eval.answers.model import weights_digest
from qvl_eval.asking import key_of, parts_of
from qvl_eval.benchmarks import PIXEL_LIMITS, Benchmark, find_benchmark
from qvl_eval.prediction_log import Prediction
from qvl_eval.prompts import PromptPart
from qvl_eval.protocol import Protocol, protocol_of
from qvl_eval.score.judged import AnsweredRow
from qvl_eval.tsv import SHOWN_PROBLEMS, BenchmarkFile, Row, read_benchmark
from qvl_eval.tsv_versions import name_version, version_warning

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.recipe.sections import EvalSection

_CHECKING_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A recipe's [eval] with its rows. `recipe` has the limits of pixels that count in `data.image`."""

    recipe: Recipe
    section: EvalSection
    benchmark: Benchmark
    file: BenchmarkFile
    rows: tuple[Row, ...]
    protocol: Protocol
    folder: Path

    def parts(self, row: Row) -> tuple[PromptPart, ...]:
        """Give the prompt of a row. Raises DataError where its text does not fit its pictures."""
        return parts_of(self.benchmark, self.section.prompts, row)

    def key(self, row: Row) -> str:
        """Give the digest of all that decides the answer to a row."""
        return key_of(self.protocol, row, self.parts(row))

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """Give the keys of all rows by index, in the order of the file. Reads every picture that was not read yet."""
        return {row.index: self.key(row) for row in self.rows}

    def described(self) -> dict[str, object]:
        """Give the whole protocol for people and for `run.json`: what decides answers, and what decides scores."""
        return {
            **self.protocol.settings,
            "data_file": str(self.file.path),
            "data_md5": self.file.md5,
            "data_version": name_version(self.benchmark.name, self.file.md5),
            "rules": list(self.section.rule_sets),
            "rows": len(self.rows),
            "rows_without_picture": list(self.file.without_picture),
            "limit": self.section.limit,
            "digest": self.protocol.digest,
        }


def prepare(recipe: Recipe, *, is_checked: bool = False) -> Evaluation:
    """Read and check everything but the pictures' pixels and the tensors. Raises InputError, NotInstalledError.

    With `is_checked` the pictures are not looked at: the process that has started this one has done it.
    """
    section = recipe.eval
    assert section is not None, "the schema demands [eval] for task eval"
    recipe = with_pixel_limits(recipe)
    benchmark = find_benchmark(section.benchmark, section.rule_sets, where=recipe.path)
    return evaluation_of(recipe, benchmark, weights_digest=weights_digest(recipe), is_checked=is_checked)


def evaluation_of(recipe: Recipe, benchmark: Benchmark, *, weights_digest: str, is_checked: bool = False) -> Evaluation:
    """Read the benchmark's file and check its prompts. Raises DataError."""
    section = recipe.eval
    assert section is not None
    file = read_rows(section, benchmark, is_checked=is_checked)
    protocol = protocol_of(recipe, data_digest=file.digest, weights_digest=weights_digest)
    rows = file.rows[: section.limit] if section.limit else file.rows
    evaluation = Evaluation(
        recipe=recipe,
        section=section,
        benchmark=benchmark,
        file=file,
        rows=rows,
        protocol=protocol,
        folder=Path(recipe.output.dir),
    )
    if not is_checked:
        _check_prompts(evaluation)
    return evaluation


def read_rows(section: EvalSection, benchmark: Benchmark, *, is_checked: bool = False) -> BenchmarkFile:
    """Read the file of [eval]. Raises DataError, which names the version of a known old file."""
    path = Path(section.data)
    try:
        return read_benchmark(path, columns=benchmark.columns, compat=section.compat, is_checked=is_checked)
    except DataError as error:
        if not path.is_file():
            raise
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if name_version(benchmark.name, md5) == "unknown":
            raise
        version = Problem(where=str(path), message=version_warning(benchmark.name, md5) or "is today's published file")
        raise DataError([*error.problems, version]) from None


def _check_prompts(evaluation: Evaluation) -> None:
    problems: list[Problem] = []
    for row in evaluation.rows:
        try:
            evaluation.parts(row)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems[:SHOWN_PROBLEMS])


def with_pixel_limits(recipe: Recipe) -> Recipe:
    """Give the recipe with the limits of pixels that `eval.pixels` names, in `data.image`."""
    if recipe.eval is None or recipe.eval.pixels is None:
        return recipe
    smallest, largest = PIXEL_LIMITS[recipe.eval.pixels]
    image = recipe.data.image.model_copy(update={"min_pixels": smallest, "max_pixels": largest})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"image": image})})


def notices(evaluation: Evaluation) -> list[str]:
    """Say what of the file a person should know: another version than the known ones, rows that are left out."""
    file, found = evaluation.file, []
    warning = version_warning(evaluation.benchmark.name, file.md5)
    if warning:
        found.append(f"{file.path}: {warning}")
    if file.without_picture:
        listed = ", ".join(file.without_picture[:5]) + (", ..." if len(file.without_picture) > 5 else "")
        found.append(f"{file.path}: {len(file.without_picture)} rows have no picture and are left out: {listed}")
    return found


def check_pictures(evaluation: Evaluation, advance: Callable[[], None] = lambda: None) -> None:
    """Decode every picture once, each different one: a broken one is told before the model is loaded.

    `advance` is called for each row. Raises DataError with the row's line.
    """
    problems: list[Problem] = []
    with ThreadPoolExecutor(_CHECKING_THREADS, thread_name_prefix="pictures") as pool:
        for found in pool.map(_picture_problems, _first_with_each(evaluation.rows)):
            problems += found
            advance()
    if problems:
        raise DataError(problems[:SHOWN_PROBLEMS])


def _first_with_each(rows: Iterable[Row]) -> list[Row]:
    """Give the first row with each different set of pictures."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        found.setdefault(row.digests, row)
    return list(found.values())


def _picture_problems(row: Row) -> Sequence[Problem]:
    from qvl_data.media.images import ImageError, decode_image

    for image in row.images:
        try:
            decode_image(image)
        except ImageError as error:
            where = f"{row.pictures.file.path}:{row.line}"
            return [Problem(where=where, key=f"row {row.index}, image", message=str(error))]
    return []


def answered_row(row: Row, prediction: Prediction) -> AnsweredRow:
    """Give a row with its answer, as scoring takes it."""
    return AnsweredRow(
        index=row.index,
        answer=row.answer,
        prediction=prediction.prediction,
        question=row.question,
        split=row.split,
        category=row.category,
        subcategory=row.columns.get("l2-category", ""),
        options=row.options,
        images=row.digests,
        question_type=row.columns.get("question_type", ""),
    )
