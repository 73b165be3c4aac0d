"""`qvl data preview`: samples as the model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qvl_core.cli.parameters import RecipeFile, Settings

from qvl_data.commands.check import not_installed

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

    from qvl_data.dataset import Dataset
    from qvl_data.inspection.preview import PreviewItem
    from qvl_data.preparation import PreparedData
    from qvl_data.streaming.stream_items import Stream

_OUT = Path("data_preview")
_SAMPLES = 8
# Of packs too: what a page can hold.
_MOST_SAMPLES = 200
_PAGE = "index.html"


def register(data: typer.Typer) -> None:
    """Add `qvl data preview`."""

    @data.command("preview")
    def preview(
        recipe: RecipeFile,
        settings: Settings = None,
        out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write index.html into.")] = _OUT,
        samples: Annotated[
            int,
            typer.Option("--samples", min=1, max=_MOST_SAMPLES, help="Samples shown; packs where the recipe packs."),
        ] = _SAMPLES,
        position: Annotated[
            int, typer.Option("--position", min=0, max=10**15, help="Start at this position of the training order.")
        ] = 0,
        index: Annotated[
            list[int] | None,
            typer.Option("--index", min=0, help="Show this sample of the files instead; may be repeated."),
        ] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace any file in the page's place.")] = False,
    ) -> None:
        """Write a page of samples as training sees them: pictures, tokens by what is learned, positions.

        Shows the first samples of the training order. The page is one file, needs no network and no script.
        """
        from qvl_data.inspection.page_file import require_page_place, write_page

        target = out / _PAGE
        require_page_place(target, overwrite=overwrite)
        try:
            page = make_page(recipe, settings or (), samples=samples, position=position, index=index or [])
        except ModuleNotFoundError as error:
            raise not_installed(error) from error
        write_page(target, page, overwrite=overwrite)
        typer.echo(f"{target}: {len(page.encode()) / 1e6:.1f} MB")


def make_page(
    path: str, settings: list[str] | tuple[str, ...], *, samples: int, position: int, index: list[int]
) -> str:
    """Give the page of a recipe of task sft. Raises RecipeError, DataError or WeightsError where training would."""
    from qvl_core.cli.inputs import require_inputs
    from qvl_core.recipe import load_recipe

    from qvl_data.commands.progress import stderr_progress
    from qvl_data.inspection.preview_page import preview_page
    from qvl_data.preparation import prepare

    recipe = load_recipe(path, settings)
    if recipe.data.sources:
        require_inputs(recipe)
    with stderr_progress() as progress:
        data = prepare(recipe, progress=progress)
        how = f"samples {', '.join(map(str, index))}" if index else f"from position {position:,} of the training order"
        items = _by_number(data, recipe, index) if index else _by_position(data, recipe, position, samples)
    loss_on = recipe.data.loss_on.replace("_", " ")
    return preview_page(items, recipe=recipe.path, model=recipe.spec.name, loss_on=loss_on, how=how)


def _by_number(data: PreparedData, recipe: Recipe, numbers: list[int]) -> list[PreviewItem]:
    from qvl_core.errors import DataError, Problem

    from qvl_data.inspection.preview import Previewer, PreviewItem

    count = data.report.train_samples
    wrong = [number for number in numbers if number >= count]
    if wrong:
        message = f"there is no sample {wrong[0]:,}: the {count:,} training samples are 0 to {count - 1:,}"
        raise DataError(Problem(where=recipe.path, key="--index", message=message))
    previewer = Previewer(data.train)
    return [PreviewItem(position=None, samples=(previewer.preview(number),)) for number in numbers]


def _by_position(data: PreparedData, recipe: Recipe, position: int, count: int) -> list[PreviewItem]:
    from contextlib import closing

    from qvl_data.batching.item_source import indexed_items
    from qvl_data.inspection.preview import Previewer, PreviewItem
    from qvl_data.streaming.prepare import stream_items
    from qvl_data.streaming.stream_items import Stream

    train = data.train
    source = stream_items(train, recipe) if isinstance(train, Stream) else indexed_items(train, recipe)
    previewer = Previewer(train)
    room = recipe.data.sequence_length if recipe.data.packing else None
    shown: list[PreviewItem] = []
    left = _MOST_SAMPLES
    is_packed_stream = isinstance(train, Stream) and recipe.data.packing
    with closing(source):
        for taken in source.take(position, count if is_packed_stream else min(count, source.order.epoch_length)):
            numbers = taken.item.samples[:left]
            left -= len(numbers)
            samples = tuple(previewer.preview(_row(train, recipe, number)) for number in numbers)
            hidden = len(taken.item.samples) - len(numbers)
            shown.append(PreviewItem(position=taken.item.position, room=room, samples=samples, hidden=hidden))
            if not left:
                break
    return shown


def _row(train: Dataset | Stream, recipe: Recipe, number: int) -> int:
    """Give what a previewer calls a sample: packs of a stream number samples by their position in the order of rows."""
    from qvl_data.streaming.stream_items import Stream

    if not (isinstance(train, Stream) and recipe.data.packing):
        return number
    assert recipe.train is not None, "a recipe of task sft has [train]"
    return train.order(recipe.train.seed).row(number)
