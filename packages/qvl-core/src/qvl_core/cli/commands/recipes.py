"""`qvl recipes`: the recipes of a folder, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qvl_core.errors import EXIT_DONE, InputError, Problem, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from qvl_core.conformance.device_result import DeviceResult

COLUMNS = ("recipe", "task", "model", "layout", "devices", "status", "what it does")
# Narrower than this, the last column has no room and becomes a table of its own.
WIDE = 140


def register(app: typer.Typer) -> None:
    """Add `qvl recipes`."""

    @app.command("recipes")
    def recipes(
        folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of the recipes.")] = "recipes",
    ) -> int:
        """List the recipes of a folder, and the model names that a recipe may use."""
        from pathlib import Path

        from qvl_core.cli import terminal
        from qvl_core.specs import shipped_names

        files = sorted(Path(folder).glob("*.toml"), key=by_size)
        if not files:
            message = "holds no *.toml files" if Path(folder).is_dir() else "there is no such folder"
            fix = "go to the folder that holds recipes/, or name it: qvl recipes DIR"
            raise RecipeError(Problem(where=folder, message=message, fix=fix))
        target = terminal.console()
        result = device_result(Path(folder))
        rows = [row(path, result) for path in files]
        if target.width >= WIDE:
            terminal.print_table(target, COLUMNS, rows)
        else:
            terminal.print_table(target, COLUMNS[:-1], [cells[:-1] for cells in rows])
            target.print()
            terminal.print_table(target, (COLUMNS[0], COLUMNS[-1]), [(cells[0], cells[-1]) for cells in rows])
        target.print()
        for line in describe(result):
            target.print(line)
        target.print(f"models: {', '.join(shipped_names())}")
        return EXIT_DONE


def by_size(path: Path) -> tuple[int, str]:
    """Order names that start with a model size by that size, 3b before 32b; names without one come first."""
    digits = path.stem[: len(path.stem) - len(path.stem.lstrip("0123456789"))]
    return int(digits or 0), path.stem


def device_result(folder: Path) -> DeviceResult | None:
    """Read the file of `nox -s npu` in the folder of the recipes; None where there is none."""
    from qvl_core.conformance.device_result import RESULT_FILE, read_device_result

    path = folder / RESULT_FILE
    return read_device_result(path) if path.exists() else None


def describe(result: DeviceResult | None) -> list[str]:
    """Say what the result file is worth: where it was made, or why it raises no recipe; other forms either way."""
    from qvl_core.input_file import printable

    if result is None:
        return ["device: no result file of `nox -s npu` here, so no recipe is device-verified"]
    forms = [f"  {printable(form, 300)}" for form in result.other_forms]
    if not result.problems:
        return [f"device: {printable(result.where, 120)}", *forms]
    more = [f"  and {len(result.problems) - 3} more"] if len(result.problems) > 3 else []
    return [
        "device: the result file is not taken",
        *(f"  {printable(problem, 300)}" for problem in result.problems[:3]),
        *more,
        *forms,
    ]


def status(path: Path, stated: str, digest: str, result: DeviceResult | None) -> str:
    """Give the status of a recipe: only the result file makes one device-verified, whatever its comment says."""
    if result is not None and result.verifies(path.stem, digest):
        return "device-verified"
    return "claimed, not verified" if stated == "device-verified" else stated or "-"


def row(path: Path, result: DeviceResult | None = None) -> tuple[str, ...]:
    """Give the cells of one recipe; a recipe with problems says how to see them."""
    from qvl_core.cli.recipe_header import read_header
    from qvl_core.recipe import load_recipe

    header = read_header(path)
    try:
        recipe = load_recipe(str(path))
    except InputError as error:
        count = len(error.problems)
        fault = f"{count} problem{'' if count == 1 else 's'}: qvl check {path}"
        return (path.stem, "-", "-", "-", "-", status(path, header.status, "", None), fault)
    layout = recipe.parallel
    cells = f"tp{layout.tp} pp{layout.pp} dp{layout.dp}"
    devices = f"{layout.world_size} {recipe.launch.device}"
    model = recipe.spec.name.removeprefix("qwen2.5-vl-")
    proven = status(path, header.status, recipe.digest(), result)
    return (path.stem, recipe.task, model, cells, devices, proven, header.purpose or "-")
