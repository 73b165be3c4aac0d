"""Where the records of each format keep their turns, media, boxes and roles: the table that new formats join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qvl_data.records.record import Role

if TYPE_CHECKING:
    from qvl_core.recipe.sections.data_sources import TagSection


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names of columns and roles of a format. `role` and `content` are keys of a message.

    `images` and `videos` are None where media stand in the messages themselves, as parts of their content. `system` is
    a column with a system prompt, None where none is read.
    """

    turns: str
    role: str
    content: str
    images: str | None
    videos: str | None
    roles: Mapping[str, Role]
    objects: str = "objects"
    system: str | None = None

    @property
    def has_parts(self) -> bool:
        return self.images is None


_OTHER_ROLES: dict[str, Role] = {
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
FORMATS = {
    "llava": Layout(
        turns="conversations",
        role="from",
        content="value",
        images="image",
        videos="video",
        roles={"human": "user", "gpt": "assistant", **_OTHER_ROLES},
    ),
    "sharegpt": Layout(
        turns="messages",
        role="role",
        content="content",
        images="images",
        videos="videos",
        roles={"user": "user", "assistant": "assistant", **_OTHER_ROLES},
    ),
    "openai": Layout(
        turns="messages",
        role="role",
        content="content",
        images=None,
        videos=None,
        roles={"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"},
    ),
}


def tagged(layout: Layout, tags: TagSection) -> Layout:
    """Give the layout with the names of `tags` in place of the format's.

    A role's tag replaces every name of that role: with `user_tag = "human"`, `user` is unknown.
    """
    columns = {
        "turns": tags.messages,
        "role": tags.role_tag,
        "content": tags.content_tag,
        "images": tags.images,
        "videos": tags.videos,
        "objects": tags.objects,
        "system": tags.system,
    }
    if layout.has_parts:
        del columns["images"], columns["videos"]
    given = {name: value for name, value in columns.items() if value is not None}
    return replace(layout, **given, roles=_tagged_roles(layout.roles, tags))


def _tagged_roles(roles: Mapping[str, Role], tags: TagSection) -> dict[str, Role]:
    found = dict(roles)
    new: dict[str, Role] = {}
    functions = {name: role for name, role in found.items() if name == "function_call"}
    changes: tuple[tuple[str | None, Role, bool], ...] = (
        (tags.user_tag, "user", False),
        (tags.assistant_tag, "assistant", False),
        (tags.system_tag, "system", False),
        (tags.observation_tag, "tool", False),
        (tags.function_tag, "assistant", True),
    )
    for tag, role, is_function in changes:
        if tag is None:
            continue
        found = {name: kept for name, kept in found.items() if kept != role or (name in functions) is not is_function}
        new[tag] = role
    return {**found, **new}
