"""`qvl infer` and `qvl chat`, and what they share with `qvl serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qvl_core.cli.parameters import Settings

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import StartWorkers

AnyRecipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe, a TOML file; of any task.", show_default=False)
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="The system prompt; the checkpoint's own without it."),
]
Slots = Annotated[
    int, typer.Option("--batch", min=1, max=1024, help="Answers that are under way at a time, on each replica.")
]
HeldTokens = Annotated[
    int,
    typer.Option(
        "--held-tokens",
        min=64,
        max=100_000_000,
        help="Tokens of prompts and answers that the cache has room for, on each replica.",
    ),
]


def infer(
    recipe: AnyRecipe,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="A question; several are answered together."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="An image; may be given several times.", show_default=False),
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option("--video", metavar="FILE", help="A video; may be given several times.", show_default=False),
    ] = None,
    system: System = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE", help="Questions, one JSON object a line: prompt, images, videos, system, id."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Answers to --input, in its order; goes on where it ends."),
    ] = None,
    media_root: Annotated[
        Path | None,
        typer.Option("--media-root", metavar="DIR", help="Folder of the media of --input; its own folder without it."),
    ] = None,
    batch: Slots = 8,
    held_tokens: HeldTokens = 32_768,
    settings: Settings = None,
    json: Annotated[bool, typer.Option("--json", help="Print question and answer as one line of JSON.")] = False,
) -> int:
    """Answer questions about any number of images and videos with the recipe's weights.

    Exit 0 answered, 2 wrong input (with --input: some rows hold an error), 3 something needed is not installed.
    """
    from qvl_eval.questions import infer as work
    from qvl_eval.questions.question_file import questions_of
    from qvl_eval.terminal_text import printed

    prompts = prompt or []
    work.require_questions(prompts, source, output, recipe)
    of_prompts, of_files = {"--image": image, "--video": video, "--json": json}, {"--media-root": media_root}
    work.refuse_unused(of_files if source is None else of_prompts, beside="--prompt" if source is None else "--input")
    loaded, start = load_answering(recipe, settings, "infer")
    capacity = work.Capacity(slots=batch, held_tokens=held_tokens)
    if source is not None and output is not None:
        return work.infer_file(
            loaded, source, output, capacity, media_root=media_root, system=system, start_workers=start
        )
    questions = questions_of(prompts, image or [], video or [], system)
    results = work.infer(loaded, questions, capacity, start_workers=start)
    for question, result in zip(questions, results, strict=True):
        typer.echo(work.as_json(loaded, question, result) if json else printed(result["answer"]))
    return 0


def chat(
    recipe: AnyRecipe,
    system: System = None,
    settings: Settings = None,
) -> int:
    """Talk with the recipe's weights in the terminal: /image FILE, /video FILE, /system TEXT, /reset, /help.

    Ctrl-C stops an answer, Ctrl-D leaves.
    """
    from qvl_eval.chat.terminal import talk

    loaded, start = load_answering(recipe, settings, "chat")
    return talk(loaded, system=system, start_workers=start)


def load_answering(recipe: str, settings: list[str] | None, command: str) -> tuple[Recipe, StartWorkers | None]:
    """Read the recipe, put its environment into this process, and give what starts its workers if it needs any."""
    from qvl_core.cli.launch import prepare_answering
    from qvl_core.recipe import load_recipe

    loaded = load_recipe(recipe, settings or ())
    return loaded, prepare_answering(loaded, settings or (), command)
