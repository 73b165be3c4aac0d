"""What a request, and all requests together, may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every limit of the server. Sizes in bytes, times in seconds."""

    queue: int = 32
    """Requests that wait beside those under way; one more is answered with 429."""
    body_bytes: int = 32 * 1024**2
    """Of one request; a larger one is answered with 413."""
    bodies_bytes: int = 256 * 1024**2
    """Of all requests that wait or are read; one that does not fit is answered with 429."""
    body_s: float = 60.0
    """In which a request's body has to arrive, else 408."""
    header_s: float = 20.0
    """In which the next request's headers have to arrive on a connection, else it is closed."""
    write_s: float = 30.0
    """For which a client may leave what was sent to it unread, else its answer is given up."""
    silence_s: float = 15.0
    """After which a stream without new text carries a comment, so that nobody on the way hangs up."""
    connections: int = 1000
    """Open at a time; on one more requests are answered with 503."""
    media: int = 16
    """Images and videos of one request."""
    image_pixels: int = 33_554_432
    """Of an image as it is sent, by its header; what the model sees is bounded by data.image.max_pixels."""
    messages: int = 1000
    values: int = 50_000
    """Of a request's JSON: numbers, texts, lists, objects and keys."""
    text_characters: int = 2_000_000
    """Of all texts of a request."""
    stops: int = 4
    stop_characters: int = 100
    new_tokens: int | None = None
    """Most that a request may ask for; the model's window where None."""
