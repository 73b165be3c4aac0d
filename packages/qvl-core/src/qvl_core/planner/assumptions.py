"""What a plan rests on: every number that is not exact, with its value, where it comes from, and how far it may be off.

A band is a range of the true value, relative to ours, as far as it is known: `measured` bands are those of
docs/plan.md's comparison, `assumed` ones are judgements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qvl_core.planner import timing
from qvl_core.planner.job import Job, Kernels

_Text = str | Callable[[Job], str]
_KERNELS: Mapping[Kernels, str] = {"fused": "the Ascend kernels'", "reference": "the plain kernels' of the CPU"}


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """One number or rule: `about` memory, time, or both."""

    about: str
    name: str
    value: str
    source: str
    band: str


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """An assumption of the jobs that it applies to; texts that differ from job to job are made of it."""

    about: str
    name: str
    value: _Text
    source: _Text
    band: _Text
    applies: Callable[[Job], object] = lambda _: True

    def of(self, job: Job) -> Assumption:
        """Give what it says of a job."""
        value, source, band = (
            text if isinstance(text, str) else text(job) for text in (self.value, self.source, self.band)
        )
        return Assumption(about=self.about, name=self.name, value=value, source=source, band=band)


def assumptions(job: Job) -> tuple[Assumption, ...]:
    """List them for a job; the device's own facts come last."""
    return (*(rule.of(job) for rule in (*_MEMORY, *_TIME) if rule.applies(job)), *_device(job))


def _trains(job: Job) -> bool:
    return job.task == "train"


def _state_text(job: Job) -> str:
    if job.task != "train":
        return f"weights in {job.dtype}"
    if job.lora is not None:
        return f"{job.dtype} weights, fp32 adapters, fp32 gradient sums and two moments of the adapters"
    return f"{job.dtype} weights, fp32 gradient sums, two fp32 moments, fp32 master weights where not the weights"


def _lengths_text(job: Job) -> str:
    load = job.workload
    longest = f"{load.longest:,} at most, {load.longest_labels:,} of them with a label"
    return f"{load.tokens:,.0f} tokens on average, {longest}"


def _answers_text(job: Job) -> str:
    room = f" (of {job.batch}: there is no room for more in a cache of {job.held_tokens:,} tokens)"
    rows = f"{job.at_once} row{'s' * (job.at_once > 1)} at a time{room if job.at_once < job.batch else ''}"
    new = f"{job.new_tokens:,} token{'s' * (job.new_tokens > 1)}"
    return f"{rows}, {new} each; a cache as large as it may grow"


def _evaluation_text(job: Job) -> str:
    asked = job.evaluation
    assert asked is not None
    rows = f"{asked.batch} rows at a time, prompts of {asked.workload.longest:,} tokens, {asked.new_tokens:,} new ones"
    return f"{rows}, beside the training's state; its time is not counted"


def _evaluation_source(job: Job) -> str:
    assert job.evaluation is not None
    load = job.evaluation.workload
    return "; ".join(part for part in ("[eval] and [generation] of the recipe", load.source, load.note) if part)


_MEMORY = (
    _Rule(
        about="memory",
        name="weights, gradients, optimizer",
        value=_state_text,
        source="the parameter table; the tests compare it with instantiated models",
        band="exact; filling of joined small tensors (under 64 KiB) is left out",
    ),
    _Rule(
        about="both",
        name="lengths of samples",
        value=_lengths_text,
        source=lambda job: job.workload.source,
        band=lambda job: (
            "exact for the data measured" if job.workload.measured else "assumed; memory is that of the worst sample"
        ),
    ),
    _Rule(
        about="memory",
        name="activations",
        value=lambda job: f"what {_KERNELS[job.kernels]} operations keep for their backward",
        source="counted from qvl_core/kernels; compared with measured memory on CPU (docs/plan.md)",
        band=lambda job: (
            "not measured on a device; assumed -20 to +30 %"
            if job.kernels == "fused"
            else "-12 to +12 % of measured memory, fourteen cases (docs/plan.md)"
        ),
    ),
    _Rule(
        about="memory",
        name="room for a backward",
        value="one layer's activations once more, two where it runs again; before it three fp32 tensors of logits, "
        "which stay where layers run again",
        source="the order of the engine's work (qvl_core.parallel.pipeline); measured on CPU (docs/plan.md)",
        band="assumed -30 to +30 %",
        applies=_trains,
    ),
    _Rule(
        about="memory",
        name="gradients of a micro batch",
        value=lambda job: (
            "those of a part at the end of its backward, in the model's dtype, in the place of its activations"
            if job.engine.whole_gradients
            else "one at a time"
        ),
        source="qvl_core.parallel.pipeline takes them with one value_and_grad; measured on CPU (docs/plan.md)",
        band="if a device lets go later: what the trained weights take, on top",
        applies=_trains,
    ),
    _Rule(
        about="both",
        name="vision features",
        value="read, not computed: no vision layer runs in a step",
        source="data.vision_cache of the recipe",
        band="computing them once, before the first step, and reading them are not counted in time",
        applies=lambda job: job.keeps_features,
    ),
    _Rule(
        about="memory",
        name="evaluation during training",
        value=_evaluation_text,
        source=_evaluation_source,
        band="at most that, where prompts are no longer; a device's pool may not give all activations back",
        applies=lambda job: job.evaluation is not None,
    ),
    _Rule(
        about="both",
        name="answers",
        value=_answers_text,
        source="the recipe; the rules of qvl_core.generate.cache and .scheduler, which the tests compare",
        band="at most that: answers end earlier",
        applies=lambda job: not _trains(job),
    ),
    _Rule(
        about="memory",
        name="communicators",
        value=lambda job: f"world, tp, pp, dp where larger than 1: 2 x {job.device.buffer_mib:g} MiB each",
        source="HCCL documentation of HCCL_BUFFSIZE",
        band="assumed -50 to +0 %",
        applies=lambda job: job.device.buffer_mib,
    ),
)

_TIME = (
    _Rule(
        about="time",
        name="speed of multiplications",
        value=f"{timing.MATMUL_SHARE:.0%} of the device's peak",
        source="peers report 25 to 55 % of the peak for whole steps (lmms-engine on A800, Megatron); "
        "never measured with qvl on a device",
        band="assumed -40 to +60 % of the time",
    ),
    _Rule(
        about="time",
        name="starting operations",
        value=f"{timing.OPERATIONS_OF_A_LAYER} a layer forward, {timing.SECONDS_OF_AN_OPERATION * 1e6:.0f} us each",
        source="fitted, with half of the peak, to the reference's published speed on 910B: 3B, 7B (two versions) "
        "and 32B, all four within 15 % (docs/plan.md); a PyTorch engine, not ours",
        band="assumed -50 to +100 % for qvl",
    ),
    _Rule(
        about="time",
        name="overlap",
        value="none: communication is waited for",
        source="the engine has none (qvl_core.parallel)",
        band="at most that",
    ),
    _Rule(
        about="time",
        name="collectives",
        value="rings: 2 (n - 1) / n of the bytes over one link, and a start for every step of the ring",
        source="Thakur et al. 2005; HCCL chooses among several algorithms",
        band="assumed -50 to +100 %",
    ),
    _Rule(
        about="time",
        name="order of the pipeline",
        value="1F1B with equal micro batches: all stages once, then the slowest stage for each further one",
        source="equals qvl_core.parallel.clock for balanced stages; plans say where that clock differs by 2 %",
        band="against that clock, 1,500 drawn splits: 0 to 7 % too long for most, at worst 23 %; 7 % too short",
        applies=_trains,
    ),
    _Rule(
        about="time",
        name="what is left out",
        value="waiting for data, checkpoints, validation, evaluation during training, slow machines",
        source="not part of a step's work",
        band="real steps take longer",
    ),
)


def _device(job: Job) -> tuple[Assumption, ...]:
    device = job.device
    return tuple(
        Assumption(about="device", name=name, value=f"{getattr(device, name):g}", source=source, band="--device-file")
        for name, source in sorted(device.sources.items())
        if hasattr(device, name)
    )
