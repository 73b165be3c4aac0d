"""`qvl serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from qvl_core.cli.parameters import Settings, finite

from qvl_eval.commands.answering import AnyRecipe, HeldTokens, Slots, load_answering

Host = Annotated[str, typer.Option("--host", help="Address to listen on. Wider ones need --token-file.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File with the token that every request has to carry."),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="A name this server is called by, besides localhost and addresses."
    ),
]
AllowedRoot = Annotated[
    Path | None,
    typer.Option("--allow-root", metavar="DIR", help="Folder whose images and videos requests may name by path."),
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the model in requests; without it that of the recipe's model.")
]
Queue = Annotated[
    int, typer.Option("--queue", min=0, max=100_000, help="Requests that may wait; one more is answered with 429.")
]
BodyMib = Annotated[
    int, typer.Option("--max-body-mib", min=1, max=1024, help="Largest request, MiB; a larger one is a 413.")
]
Media = Annotated[int, typer.Option("--max-images", min=0, max=1000, help="Images and videos of one request.")]
ImagePixels = Annotated[
    int, typer.Option("--max-image-pixels", min=1, max=89_478_485, help="Pixels of an image as it is sent.")
]
NewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest answer a request may ask for; the window without it."),
]
Drain = Annotated[
    float,
    typer.Option("--drain", min=0, max=86_400, callback=finite, help="Seconds for answers under way after SIGTERM."),
]


def serve(
    recipe: AnyRecipe,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    allow_host: AllowedHosts = None,
    allow_root: AllowedRoot = None,
    name: Name = None,
    batch: Slots = 8,
    held_tokens: HeldTokens = 32_768,
    queue: Queue = 32,
    max_body_mib: BodyMib = 32,
    max_images: Media = 16,
    max_image_pixels: ImagePixels = 33_554_432,
    max_new_tokens: NewTokens = None,
    drain: Drain = 30.0,
    settings: Settings = None,
) -> int:
    """Serve the recipe's weights to OpenAI clients: /v1/chat/completions, /v1/models, /health, /metrics.

    Exit 0 ended in order, 1 requests were cut short or the model failed, 2 wrong input, 3 something is not installed.
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
    loaded, start = load_answering(recipe, settings, "serve")
    return run_server(loaded, options, start)
