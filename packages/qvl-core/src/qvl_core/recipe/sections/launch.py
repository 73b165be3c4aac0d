"""[launch]: on which devices and machines the processes start."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qvl_core.layout_rules import DEVICES_PER_NODE_LIMIT
from qvl_core.recipe.sections.section import Section


class LaunchSection(Section):
    """One process per device."""

    device: Literal["ascend", "cpu"] = Field(
        description="ascend for NPUs, cpu for development and tests.", examples=["ascend"]
    )
    devices_per_node: int | None = Field(
        default=None,
        ge=1,
        le=DEVICES_PER_NODE_LIMIT,
        description="Processes on one machine. Default: 8 on Ascend (an Atlas 800 server); on CPU as many as the "
        "layout needs.",
        examples=[8],
    )
    nodes: int = Field(default=1, ge=1, le=65536, description="Machines. Default 1.", examples=[1])
    master: str = Field(
        default="localhost:29501",
        max_length=300,
        description="Where the processes meet: host:port of the first machine, a host name or IPv4 address (msrun "
        "knows no IPv6) and a port from 1024 to 65535. Default localhost:29501: one machine.",
        examples=["localhost:29501"],
    )
