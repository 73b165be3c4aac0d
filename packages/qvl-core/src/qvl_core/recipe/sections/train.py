"""[train]: how long, how large the batches are, and how the optimizer steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from qvl_core.lora_table import LoraTarget
from qvl_core.recipe.sections.section import Components, Section, section_defaults

Beta = Annotated[float, Field(ge=0, lt=1)]
StepNumber = Annotated[int, Field(ge=1, le=10**9)]

# A trace has every operation of every step in it.
MOST_PROFILED_STEPS = 100


class LearningRateScale(Section):
    """Factors on the learning rate, one per component."""

    vision: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Factor for the vision encoder, greater than 0. Default 1.0.",
        examples=[0.1],
    )
    merger: float = Field(
        default=1.0, gt=0, le=1000, description="Factor for the merger, greater than 0. Default 1.0.", examples=[1.0]
    )
    text: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Factor for the text decoder, greater than 0. Default 1.0.",
        examples=[1.0],
    )


class OptimizerSection(Section):
    """AdamW (arXiv 1711.05101)."""

    name: Literal["adamw"] = Field(default="adamw", description="The optimizer. Only adamw.", examples=["adamw"])
    lr: float = Field(
        gt=0, le=10, description="Peak learning rate, greater than 0. The reference recipes use 1e-5.", examples=[1e-5]
    )
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = Field(
        default=(0.9, 0.999),
        description="Decay of the two moments, each in [0, 1). Default [0.9, 0.999]: the paper's.",
        examples=[[0.9, 0.999]],
    )
    eps: float = Field(
        default=1e-8,
        gt=0,
        le=1,
        description="Added to the root of the second moment, greater than 0. Default 1e-8: the paper's.",
        examples=[1e-8],
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Decoupled decay of matrices; norms and biases are never decayed. Default 0.0: the reference "
        "recipes'.",
        examples=[0.0],
    )
    clip_norm: float = Field(
        default=1.0,
        ge=0,
        le=1e9,
        description="Largest norm of the whole gradient; 0 measures it and clips nothing. Default 1.0.",
        examples=[1.0],
    )
    lr_scale: LearningRateScale = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="Factors on lr per component: vision, merger, text. Default 1.0 each.",
        examples=[{"vision": 0.1}],
    )


class ScheduleSection(Section):
    """The learning rate over the run: a linear rise, then a decay."""

    name: Literal["cosine", "linear", "constant"] = Field(
        default="cosine",
        description="Decay after the warm-up. Default cosine: the reference recipes'.",
        examples=["cosine"],
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Part of the steps over which the rate rises from 0, in [0, 1). Default 0.1: the reference "
        "recipes'.",
        examples=[0.1],
    )
    min_lr: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Learning rate at the last step, at most optimizer.lr. Default 0.0.",
        examples=[0.0],
    )


class LoraSection(Section):
    """Low-rank adapters (arXiv 2106.09685) on linear layers; all weights of the model itself are frozen."""

    rank: int = Field(
        default=8, ge=1, le=4096, description="Inner size of an adapter, at least 1. Default 8.", examples=[8]
    )
    alpha: float = Field(
        default=16, gt=0, le=1e6, description="Adapters are scaled by alpha / rank. Default 16.", examples=[16]
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part of an adapter's input dropped in training, in [0, 1). Masks are drawn on the host: with a "
        "large model this takes time. Default 0.0.",
        examples=[0.0],
    )
    components: Components = Field(
        default=("text",),
        min_length=1,
        max_length=3,
        description="Components whose layers get adapters: any of vision, merger, text. Each has some of the targets. "
        "Default text.",
        examples=[["text", "vision"]],
    )
    targets: Annotated[tuple[LoraTarget, ...], Strict(False)] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj"),
        min_length=1,
        max_length=11,
        description="Layers that get an adapter in each of the components that has them. Text: q_proj, k_proj, v_proj, "
        "o_proj, gate_proj, up_proj, down_proj; vision: qkv, proj, gate_proj, up_proj, down_proj; merger: mlp.0, "
        "mlp.2. Default: the four of the text's attention.",
        examples=[["q_proj", "v_proj"]],
    )


# A checkpoint of at most so many bytes is waited for before the step after it is told: with small models a run then
# never loses more than `every` steps. Large ones go on beside the steps.
SETTLED_BYTES = 1 << 28


class SaveSection(Section):
    """Checkpoints."""

    every: int = Field(
        default=500,
        ge=1,
        description="Steps between checkpoints, at least 1; the last step is always saved. Default 500.",
        examples=[500],
    )
    keep: int = Field(
        default=3, ge=1, le=10_000, description="Newest checkpoints that are kept, at least 1. Default 3.", examples=[3]
    )
    optimizer: bool = Field(
        default=True,
        description="Save the optimizer too: 8 more bytes per trained parameter (12 where the model is not float32), "
        "needed to resume. Default true.",
        examples=[True],
    )
    export_hf: bool = Field(
        default=True,
        description="Write an HF folder at the end of the run. Default true. A run with [train.lora] writes its "
        "adapter in PEFT's format instead, always, and says how to merge it: `qvl convert merge`.",
        examples=[True],
    )
    background: bool = Field(
        default=True,
        description="Write checkpoints while training goes on: a step stands still only until the tensors are copied, "
        "which takes as much host memory as a rank writes. A checkpoint of at most 256 MiB is waited for, two seconds "
        "at most, before the next step is told. false: stand still until all is written. Default true.",
        examples=[True],
    )
    on_error: Literal["stop", "continue"] = Field(
        default="stop",
        description="What a full or failing disk does to the run: stop ends it at once, with the checkpoints it has; "
        "continue warns, trains on and tries again at the next save. The last save has to work. Default stop.",
        examples=["stop"],
    )


class LogSection(Section):
    """Metrics."""

    every: int = Field(default=1, ge=1, description="Steps between metric lines, at least 1. Default 1.", examples=[1])
    validate_every: int = Field(
        default=500,
        ge=1,
        description="Steps between validations, at least 1, and one after the last step; used where data.validation "
        "is stated. Default 500.",
        examples=[500],
    )
    validate_first: bool = Field(
        default=False,
        description="Validate before the first step too: what the training starts from. Default false.",
        examples=[True],
    )
    peak_tflops: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Peak of one device in TFLOP/s, dense, at the dtype that is trained with. With it the share that "
        "the model makes use of (MFU) is told. Default: absent, no MFU.",
        examples=[354.0],
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard files. Default true.", examples=[True])
    profile: Annotated[tuple[StepNumber, StepNumber], Strict(False)] | None = Field(
        default=None,
        description="First and last step that MindSpore's profiler looks at, both included, at most 100 of them: its "
        "traces go to profile/ in the run's folder, of one process of each pipeline stage. Default: absent, none.",
        examples=[[10, 12]],
    )


class TrainSection(Section):
    """Training. Exactly one of `steps` and `epochs` says how long."""

    steps: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="Optimizer steps of the run, at least 1. Either this or `epochs`.",
        examples=[10000],
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Passes over the samples, at least 1. Either this or `steps`.",
        examples=[1],
    )
    micro_batch: int = Field(
        default=1,
        ge=1,
        le=10**6,
        description="Samples of one forward and backward pass on one replica. Default 1: memory is the limit.",
        examples=[1],
    )
    global_batch: int = Field(
        ge=1,
        le=10**8,
        description="Samples of one optimizer step over all replicas: a multiple of micro_batch * dp.",
        examples=[192],
    )
    seed: int = Field(
        default=42,
        ge=0,
        le=2**32 - 1,
        description="Seed of sample order, held-out split, dropout and random weights, 0 to 4294967295. Default 42.",
        examples=[42],
    )
    loss_reduction: Literal["token", "sample", "micro_batch"] = Field(
        default="token",
        description="How token losses become one number: each learned token of the global batch weighs the same, each "
        "sample does, or each micro batch does (the reference's, which depends on micro_batch). Default token.",
        examples=["token"],
    )
    optimizer: OptimizerSection = Field(description="The optimizer.", examples=[{"lr": 1e-5}])
    schedule: ScheduleSection = Field(
        default_factory=section_defaults,
        validate_default=True,
        description="The learning rate over the run.",
        examples=[{"name": "cosine"}],
    )
    lora: LoraSection | None = Field(
        default=None,
        description="Low-rank adapters. Default: absent, full fine-tuning of what is not frozen.",
        examples=[{"rank": 8}],
    )
    save: SaveSection = Field(
        default_factory=section_defaults, validate_default=True, description="Checkpoints.", examples=[{"every": 500}]
    )
    log: LogSection = Field(
        default_factory=section_defaults, validate_default=True, description="Metrics.", examples=[{"every": 1}]
    )
