"""What is planned: the model, what trains, the batch, and the engine that runs it. One value for all layouts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from qvl_core.answer_sizes import INFER_HELD_TOKENS, INFER_SLOTS, blocks
from qvl_core.lora_table import Lora
from qvl_core.params import Component
from qvl_core.planner.devices import DeviceFacts
from qvl_core.planner.workload import Workload, prompts_of, workload_of
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_table import DtypeName

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

COMPONENTS: tuple[Component, ...] = ("vision", "merger", "text")
Task = Literal["train", "generate"]
Kernels = Literal["fused", "reference"]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How the program that runs the plan uses memory: ours, or one whose published figures are compared with ours.

    `tape`: a stage before the last keeps its inputs of the micro batches in flight and runs again before the backward;
    without, it keeps all activations of them. `whole_gradients`: all gradients of a micro batch are there at once, in
    the model's dtype, before they are added to the fp32 sums. `sequence_parallel`: what tensor ranks compute alike is
    cut over them as well (Korthikanti et al., arXiv 2205.05198).
    """

    name: str
    tape: bool
    whole_gradients: bool
    sequence_parallel: bool = False


QVL = Engine(name="qvl", tape=True, whole_gradients=True)
MEGATRON = Engine(name="megatron", tape=False, whole_gradients=False)
MEGATRON_SEQUENCE = Engine(
    name="megatron, sequence parallel", tape=False, whole_gradients=False, sequence_parallel=True
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run without its layout.

    Where the task is to generate, `batch` are the most rows that a replica answers at a time (`at_once`: of the usual
    length), `new_tokens` the most that an answer has, and `held_tokens` what the cache may hold of prompts and answers
    (0: no bound); prompts that it cannot hold with their answers are refused (`is_refused`); on CPU the engine
    `copies_head`, but not while weights change. Where each micro batch weighs the same in the loss
    (`is_loss_of_micro_batches`), another micro batch than the recipe's changes the losses. `evaluation` is what a
    training answers on its way, with its own layout and beside its state. Where it `keeps_features` of frozen vision,
    these are read, and no vision layer runs in a step. Where it `is_placed`, its machines are those that the recipe
    states; else each plan has its own (`each_machine`). `whole_machine` are the devices of one of which a plan takes
    fewer.
    """

    spec: ModelSpec
    device: DeviceFacts
    workload: Workload
    task: Task = "train"
    dtype: DtypeName = "bfloat16"
    freeze: tuple[Component, ...] = ()
    lora: Lora | None = None
    global_batch: int = 1
    micro_batch: int = 1
    batch: int = 1
    new_tokens: int = 0
    held_tokens: int = 0
    engine: Engine = QVL
    kernels: Kernels = "fused"
    is_loss_of_micro_batches: bool = False
    keeps_features: bool = False
    evaluation: Job | None = None
    copies_head: bool = True
    is_refused: bool = False
    is_placed: bool = False
    whole_machine: int | None = None

    @property
    def frozen(self) -> frozenset[Component]:
        """Components none of whose own weights train: all with adapters."""
        return frozenset(COMPONENTS) if self.lora is not None else frozenset(self.freeze)

    @property
    def alive(self) -> frozenset[Component]:
        """Components with something to train inside: gradients begin there."""
        if self.task != "train":
            return frozenset()
        if self.lora is not None:
            return frozenset(self.lora.components)
        return frozenset(COMPONENTS) - frozenset(self.freeze)

    @property
    def rows(self) -> int:
        """Give the samples that a replica works on at a time, as the recipe states it."""
        return self.micro_batch if self.task == "train" else self.batch

    @property
    def at_once(self) -> int:
        """Give the rows of mean length that are answered at a time: as many as the cache has room for.

        `qvl_core.generate.scheduler` starts a row where all that are under way, each as long as the longest may become,
        fit.
        """
        if not self.held_tokens:
            return self.batch
        length = blocks(min(ceil(self.workload.tokens) + self.new_tokens, self.longest_answered))
        return min(self.batch, max(1, blocks(self.held_tokens) // length))

    @property
    def longest_answered(self) -> int:
        """Give the tokens of the longest prompt with its answer: the model's window and the cache end both."""
        window = self.spec.text.max_position_embeddings
        return min(self.workload.longest + self.new_tokens, window, self.held_tokens or window)

    def is_reached(self, component: Component) -> bool:
        """Tell whether a gradient passes through a component: something trains in it or before it."""
        return any(one in self.alive for one in COMPONENTS[: COMPONENTS.index(component) + 1])


def job_of(recipe: Recipe, device: DeviceFacts, *, report: str | None = None) -> Job:
    """Give the job of a loaded recipe; `report` is a file of `qvl data check --format json`."""
    train = recipe.train if recipe.task == "sft" else None
    kernels = _kernels(device.name, recipe.launch.device)
    job = Job(
        spec=recipe.spec,
        device=_device(device, recipe),
        workload=workload_of(recipe, report),
        task="train" if train is not None else "generate",
        dtype=recipe.model.dtype or "bfloat16",
        freeze=tuple(recipe.model.freeze),
        lora=recipe.lora if train is not None else None,
        global_batch=train.global_batch if train is not None else 1,
        micro_batch=train.micro_batch if train is not None else 1,
        kernels=kernels,
        is_loss_of_micro_batches=train is not None and train.loss_reduction == "micro_batch",
        keeps_features=train is not None and recipe.data.vision_cache,
    )
    if train is None:
        return _answering(job, recipe)
    return replace(job, evaluation=_evaluation(job, recipe))


def _device(device: DeviceFacts, recipe: Recipe) -> DeviceFacts:
    """Give the facts of a device as the recipe sets them: its buffers, and how many make up one of several machines."""
    stated: dict[str, float] = {}
    buffer = recipe.env.variables().get("HCCL_BUFFSIZE")
    if buffer is not None and device.buffer_mib:
        stated["buffer_mib"] = float(buffer)
    launch, usual = recipe.launch, device.devices_per_node
    if launch.device != "cpu" and launch.devices_per_node is not None:
        # On one machine a recipe may ask for fewer than there are; processes of a CPU run are all on one.
        each = launch.devices_per_node
        stated["devices_per_node"] = each if launch.nodes > 1 else max(each, usual)
    told = {"buffer_mib": "HCCL_BUFFSIZE in [env] of the recipe", "devices_per_node": "[launch] of the recipe"}
    sources = {key: told[key] for key, value in stated.items() if value != getattr(device, key)}
    return replace(device, **stated, sources=MappingProxyType({**device.sources, **sources}))  # type: ignore[arg-type]


def on_machines(job: Job, devices: int, tp: int = 1) -> Job:
    """Give the job on the machines of so many devices, with tensor groups of `tp`."""
    each = each_machine(job, devices, tp)
    if each in (devices, job.device.devices_per_node):
        return job
    sources = {
        **job.device.sources,
        "devices_per_node": f"{devices // each} machines with equally many of the {devices}",
    }
    return replace(
        job,
        device=replace(job.device, devices_per_node=each, sources=MappingProxyType(sources)),
        whole_machine=job.device.devices_per_node,
    )


def each_machine(job: Job, devices: int, tp: int) -> int:
    """Give how many of the devices are on each machine, equally many on each.

    As few machines as hold them; where one has room for tensor groups of `tp`, as few as hold a whole number of these.
    """
    size = job.device.devices_per_node
    if devices <= size or job.is_placed:
        return min(devices, size)
    possible = [each for each in range(size, 0, -1) if devices % each == 0]
    return next((each for each in possible if each % tp == 0), possible[0])


def on_one_machine(job: Job, devices: int) -> Job:
    """Give the job with so many processes on one machine, as those of a CPU run are."""
    return replace(job, device=replace(job.device, devices_per_node=max(devices, job.device.devices_per_node)))


def _evaluation(job: Job, recipe: Recipe) -> Job | None:
    """Give what a training recipe answers every so many steps; None where it never does."""
    if recipe.eval is None or not recipe.eval.every:
        return None
    # Adapters are part of the training's own weights.
    answering = replace(
        job, task="generate", workload=prompts_of(recipe), freeze=(), lora=None, keeps_features=False, copies_head=False
    )
    return _answering(answering, recipe)


def _kernels(device: str, launched_on: str) -> Kernels:
    """Give the kernels of the device planned for; a device of the user's own has those of the recipe's."""
    kind = "cpu" if device == "cpu" else "ascend" if device.startswith("ascend") else launched_on
    return "reference" if kind == "cpu" else "fused"


def _answering(job: Job, recipe: Recipe) -> Job:
    """Add how many rows are answered at a time, how long answers may be, and what the cache may hold."""
    window = recipe.spec.text.max_position_embeddings
    evaluates = recipe.task != "infer" and recipe.eval is not None
    if evaluates and recipe.eval is not None:
        batch, held = recipe.eval.batch, recipe.eval.held_tokens or window
    else:
        batch, held = (recipe.infer.batch if recipe.infer is not None else INFER_SLOTS), INFER_HELD_TOKENS
    job = replace(job, batch=batch, held_tokens=held, new_tokens=recipe.generation.max_new_tokens)
    return _with_room(job, is_cut_by_cache=not evaluates)


def _with_room(job: Job, *, is_cut_by_cache: bool) -> Job:
    """Give answers no more tokens than prompts of full length leave them, and say so where that is less than asked for.

    All end with the model's window. `qvl infer` ends them with the cache as well, an evaluation refuses such prompts:
    then what the cache leaves is counted, which nobody waits for.
    """
    load, window = job.workload, job.spec.text.max_position_embeddings
    end = min(window, job.held_tokens)
    room = (end if is_cut_by_cache else window) - load.longest
    new = max(1, min(job.new_tokens, room))
    prompts, note = f"prompts of {load.longest:,} tokens", ""
    is_refused = blocks(min(load.longest + new, window)) > blocks(job.held_tokens) or load.longest >= end
    if is_refused:
        new = max(1, min(new, end - load.longest))
        note = f"{prompts} are refused: with their answers they are to fit in {end:,}"
    elif new < job.new_tokens:
        note = f"answers to {prompts} end after {new:,} of {job.new_tokens:,}: together they are to fit in {end:,}"
    load = replace(load, note="; ".join(part for part in (load.note, note) if part))
    return replace(job, new_tokens=new, workload=load, is_refused=is_refused)
