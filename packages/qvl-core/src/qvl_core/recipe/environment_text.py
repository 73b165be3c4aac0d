"""A variable's text, as a shell holds it, as the value that stands under [env]."""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qvl_core.recipe.environment_values import value_fault
from qvl_core.recipe.sections.env import EnvSection

_WHOLE = re.compile(r"-?\d{1,12}")


class VariableError(ValueError):
    """A text that is not legal for its variable; the message says why, without the name."""


def value_of_text(name: str, text: str) -> Any:
    """Give the value of one of EnvSection's variables. Raises VariableError where the text is not legal for it."""
    written = text.strip()
    value: Any = int(written) if _WHOLE.fullmatch(written) else written
    if name == "TOKENIZERS_PARALLELISM":
        value = written.lower()
    if name == "ASCEND_RT_VISIBLE_DEVICES":
        value = written.replace(" ", "")
    if (fault := value_fault(name, value)) is not None:
        raise VariableError(fault.message)
    field = EnvSection.model_fields[name]
    try:
        # Texts such as an address or a list of ports may be whole numbers, too.
        TypeAdapter(field.rebuild_annotation(), config={"strict": True}).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        if not isinstance(value, int) or "string" not in message:
            raise VariableError(message[:1].lower() + message[1:]) from None
        value = written
    return value == "true" if name == "TOKENIZERS_PARALLELISM" else value
