"""The commands that this package adds to `qvl`. Imports are light; each command does its own when it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qvl_core.cli.parameters import Settings

from qvl_eval import commands_report, commands_score

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


def register(app: typer.Typer) -> None:
    """Add the commands; called by qvl-core through the entry point group `qvl.commands`."""
    app.command("infer")(infer)
    app.command("chat")(chat)
    app.command("serve")(serve)
    commands_score.register(app)
    group = next(one.typer_instance for one in app.registered_groups if one.name == "eval")
    assert group is not None, "commands_score makes the group"
    commands_report.register(group)


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
    from qvl_eval import infer as work
    from qvl_eval.questions import questions_of

    prompts = prompt or []
    work.require_questions(prompts, source, output, recipe)
    loaded, start = _load(recipe, settings, "infer")
    capacity = work.Capacity(slots=batch, held_tokens=held_tokens)
    if source is not None and output is not None:
        return work.infer_file(
            loaded, source, output, capacity, media_root=media_root, system=system, start_workers=start
        )
    questions = questions_of(prompts, image or [], video or [], system)
    results = work.infer(loaded, questions, capacity, start_workers=start)
    for question, result in zip(questions, results, strict=True):
        typer.echo(work.as_json(loaded, question, result) if json else result["answer"])
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

    loaded, start = _load(recipe, settings, "chat")
    return talk(loaded, system=system, start_workers=start)


def serve(
    recipe: AnyRecipe,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Wider ones need --token-file.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="File with the token that every request has to carry."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="A name this server is called by, besides localhost and addresses."
        ),
    ] = None,
    allow_root: Annotated[
        Path | None,
        typer.Option("--allow-root", metavar="DIR", help="Folder whose images and videos requests may name by path."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model in requests; without it that of the recipe's model.")
    ] = None,
    batch: Slots = 8,
    held_tokens: HeldTokens = 32_768,
    queue: Annotated[
        int, typer.Option("--queue", min=0, max=100_000, help="Requests that may wait; one more is answered with 429.")
    ] = 32,
    max_body_mib: Annotated[
        int, typer.Option("--max-body-mib", min=1, max=1024, help="Largest request, MiB; a larger one is a 413.")
    ] = 32,
    max_images: Annotated[
        int, typer.Option("--max-images", min=0, max=1000, help="Images and videos of one request.")
    ] = 16,
    max_image_pixels: Annotated[
        int,
        typer.Option("--max-image-pixels", min=1, max=89_478_485, help="Pixels of an image as it is sent."),
    ] = 33_554_432,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Longest answer a request may ask for; the window without it."),
    ] = None,
    drain: Annotated[
        float, typer.Option("--drain", min=0, max=86_400, help="Seconds for answers under way after SIGTERM.")
    ] = 30.0,
    settings: Settings = None,
) -> int:
    """Serve the recipe's weights to OpenAI clients: /v1/chat/completions, /v1/models, /health, /metrics.

    Exit 0 ended with every request answered, 1 some were cut short, 2 wrong input, 3 something is not installed.
    """
    from qvl_eval.serve.limits import Limits
    from qvl_eval.serve.server import ServerOptions, run_server

    options = ServerOptions(
        host=host,
        port=port,
        token_file=token_file,
        allowed_hosts=tuple(allow_host or ()),
        allow_root=allow_root,
        name=name,
        slots=batch,
        held_tokens=held_tokens,
        drain_s=drain,
        limits=Limits(
            queue=queue,
            body_bytes=max_body_mib * 1024**2,
            media=max_images,
            image_pixels=max_image_pixels,
            new_tokens=max_new_tokens,
        ),
    )
    loaded, start = _load(recipe, settings, "serve")
    return run_server(loaded, options, start)


def _load(recipe: str, settings: list[str] | None, command: str) -> tuple[Recipe, StartWorkers | None]:
    """Read the recipe, put its environment into this process, and give what starts its workers if it needs any."""
    from qvl_core.cli.launch import prepare_answering
    from qvl_core.recipe import load_recipe

    loaded = load_recipe(recipe, settings or ())
    return loaded, prepare_answering(loaded, settings or (), command)
