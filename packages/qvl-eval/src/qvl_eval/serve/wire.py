"""The request body of /v1/chat/completions as pydantic models, and the JSON that goes back.

What is not supported is refused by name rather than left out: a client that asks for tools must not get prose. Fields
that change nothing about an answer (`user`, `metadata`, `store`, `service_tier` and the like) are taken and not used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from qvl_core.input_file import printable

from qvl_eval.questions import is_text
from qvl_eval.serve.json_body import read_json
from qvl_eval.serve.refusal import bad_request

# Of a message of a validation error that echoes what the client sent.
_SHOWN = 300


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Wire):
    """A text among media."""

    type: Literal["text"]
    text: str


class Url(_Wire):
    """Where a medium is. `detail` is taken and not used: the recipe says how large the model sees an image."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Wire):
    """An image."""

    type: Literal["image_url"]
    image_url: Url


class VideoPart(_Wire):
    """A video; an extension that other servers of vision models have too."""

    type: Literal["video_url"]
    video_url: Url


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _text_or_list(content: object) -> str | None:
    if isinstance(content, str):
        return "text"
    return "list" if isinstance(content, list) else None


def _told_apart(wanted: str) -> Discriminator:
    """Tell a text from a list by hand, so that what is wrong with an element is said of the element."""
    return Discriminator(_text_or_list, custom_error_type="text_or_list", custom_error_message=wanted)


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Field(min_length=1), Tag("list")],
    _told_apart("Input should be a text or a list of parts"),
]
Stop = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[str], Tag("list")],
    _told_apart("Input should be a text or a list of texts"),
]


class WireMessage(_Wire):
    """A message. What a client sends back of an earlier answer beside its text has to be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    refusal: None = None
    annotations: list[None] | None = Field(default=None, max_length=0)
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(_Wire):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ResponseFormat(_Wire):
    """Only plain text."""

    type: Literal["text"]


class ChatRequest(_Wire):
    """The body. None means: as the recipe says."""

    model: str
    messages: list[WireMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0, le=10_000_000)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=1)
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    logprobs: Literal[False] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)
    response_format: ResponseFormat | None = None
    tools: list[None] | None = Field(default=None, max_length=0)
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _is_a_stream_where_it_has_options(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for streams: stream is not true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Give the stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Tell whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse_request(data: bytes, *, messages: int, values: int) -> ChatRequest:
    """Read a body of at most so many messages and JSON values. Raises Refusal, a 400 that names the field."""
    try:
        content = read_json(data, values=values)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body cannot be read as JSON in UTF-8: {printable(str(error), _SHOWN)}") from None
    if not isinstance(content, dict):
        raise bad_request(f"the body is {type(content).__name__}; a JSON object is wanted")
    # Before the models see them, which would collect an error for each.
    if isinstance(content.get("messages"), list) and len(content["messages"]) > messages:
        raise bad_request(f"more than {messages} messages", "messages")
    try:
        return ChatRequest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Names of fields are the client's own words.
        param = printable(".".join(map(str, _place(first["loc"]))), _SHOWN)
        if not param:
            raise bad_request(printable(first["msg"], _SHOWN), "stream_options") from None
        raise bad_request(printable(f"{param}: {first['msg']}", _SHOWN), param) from None


def _place(found: Sequence[int | str]) -> list[int | str]:
    """Give the path of a validation error without the names of the alternatives that pydantic puts in between."""
    place = list(found)
    if place[:1] == ["messages"] and place[2:3] == ["content"]:
        del place[3:4]  # text or parts
        del place[4:5]  # the type of a part, behind its number
    elif place[:1] == ["stop"]:
        del place[1:2]
    return place


def texts_of(request: ChatRequest) -> list[str]:
    """Give every text of a request."""
    texts = [*request.stops]
    for message in request.messages:
        if isinstance(message.content, str):
            texts.append(message.content)
        else:
            texts += [part.text for part in message.content if isinstance(part, TextPart)]
    return texts


def require_text(request: ChatRequest, *, limit: int) -> None:
    """Raise Refusal for texts that are too long together, or no text."""
    texts = texts_of(request)
    total = sum(map(len, texts))
    if total > limit:
        raise bad_request(f"the texts have {total:,} characters together; at most {limit:,} are read", "messages")
    if not all(map(is_text, texts)):
        raise bad_request("a text holds half of a surrogate pair, which is no character", "messages")


def completion(
    *, answer_id: str, model: str, text: str, finish: str, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """Give a whole answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": finish,
    }
    head = _head(answer_id, model, "chat.completion")
    return {**head, "choices": [choice], "usage": usage(prompt_tokens, new_tokens)}


def chunk(*, answer_id: str, model: str, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """Give a piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_head(answer_id, model, "chat.completion.chunk"), "choices": [choice]}


def usage_chunk(*, answer_id: str, model: str, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """Give the last chunk of a stream that was asked for its counts of tokens."""
    head = _head(answer_id, model, "chat.completion.chunk")
    return {**head, "choices": [], "usage": usage(prompt_tokens, new_tokens)}


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    """Give the counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }


def _head(answer_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}
