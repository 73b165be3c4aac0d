"""[output] and [expected]: where a run writes, and what was once measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from qvl_core.recipe.sections.section import PathText, Section

Stated = Annotated[str, Field(min_length=1, max_length=1000)]


class OutputSection(Section):
    """The run's folder."""

    dir: PathText = Field(
        description="Folder of the run, relative to the working directory; made if missing, one run per folder.",
        examples=["runs/7b_sft"],
    )


class ExpectedSection(Section):
    """Measured results of this recipe: who runs it can compare. Further keys are numbers, the unit in the name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    where: Stated = Field(
        description="Hardware and versions of the measurement.", examples=["CPU, 2 cores, MindSpore 2.10.0"]
    )
    when: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(
        description="Day of the measurement, YYYY-MM-DD, as a string.", examples=["2026-01-31"]
    )
    command: Stated = Field(description="The command that was run.", examples=["qvl run recipes/tiny_sft.toml"])
    loss_first: float | None = Field(
        default=None, description="Loss of the first step, nats per token.", examples=[6.2]
    )
    loss_last: float | None = Field(default=None, description="Loss of the last step, nats per token.", examples=[0.1])
    accuracy_percent: float | None = Field(
        default=None, ge=0, le=100, description="Accuracy of the evaluation, percent.", examples=[95.0]
    )
    step_time_s: float | None = Field(default=None, gt=0, description="Median time of a step, seconds.", examples=[0.3])
    tokens_per_s: float | None = Field(
        default=None, gt=0, description="Tokens trained or generated per second, all devices.", examples=[1500.0]
    )
    memory_gib: float | None = Field(default=None, gt=0, description="Peak memory of a process, GiB.", examples=[1.5])
