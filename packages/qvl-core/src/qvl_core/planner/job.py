"""What is planned: the model, what trains, the batch, and the engine that runs it. One value for all layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qvl_core.lora_table import Lora
from qvl_core.params import Component
from qvl_core.planner.devices import DeviceFacts
from qvl_core.planner.workload import Workload, workload_of
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
    """A run without its layout. `batch` is the rows answered at a time where the task is to generate."""

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
    engine: Engine = QVL
    kernels: Kernels = "fused"

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

    def is_reached(self, component: Component) -> bool:
        """Tell whether a gradient passes through a component: something trains in it or before it."""
        return any(one in self.alive for one in COMPONENTS[: COMPONENTS.index(component) + 1])


def job_of(recipe: Recipe, device: DeviceFacts, *, report: str | None = None) -> Job:
    """Give the job of a loaded recipe; `report` is a file of `qvl data check --format json`."""
    train = recipe.train if recipe.task == "sft" else None
    kernels: Kernels = "reference" if recipe.launch.device == "cpu" else "fused"
    buffer = recipe.env.variables().get("HCCL_BUFFSIZE")
    if buffer is not None and device.buffer_mib:
        from dataclasses import replace

        device = replace(device, buffer_mib=float(buffer))
    return Job(
        spec=recipe.spec,
        device=device,
        workload=workload_of(recipe, report),
        task="train" if train is not None else "generate",
        dtype=recipe.model.dtype or "bfloat16",
        freeze=tuple(recipe.model.freeze),
        lora=recipe.lora if train is not None else None,
        global_batch=train.global_batch if train is not None else 1,
        micro_batch=train.micro_batch if train is not None else 1,
        batch=recipe.eval.batch if recipe.eval is not None else 1,
        new_tokens=0 if train is not None else recipe.generation.max_new_tokens,
        kernels=kernels,
    )
