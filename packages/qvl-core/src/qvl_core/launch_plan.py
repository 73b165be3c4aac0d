"""The launch plan: which processes a run starts, where, with which command and environment. Pure; starts nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate, coordinate_of
from qvl_core.stage_table import layer_range

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

Method = Literal["in process", "msrun", "mpiexec"]

# What msrun waits for all workers to register, seconds; `[env] MS_TOPO_TIMEOUT` replaces it.
CLUSTER_TIMEOUT_S = 600

_BY_DEVICE = {
    # On CPU the launch threads fight over the cores: a small step takes 4 to 14 times as long without this.
    "cpu": {"QVL_DEVICE": "cpu", "MS_DEV_HOST_BLOCKING_RUN": "1"},
    "ascend": {"QVL_DEVICE": "ascend"},
}
# A run reads local folders only; without these, libraries ask the network for newer files and hang where there is none.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One environment variable of the workers. `origin` is `[env]` or what in qvl sets it."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """One process. `device` counts on its node. Layer ranges are half open: (first, after last)."""

    rank: int
    node: int
    device: int
    place: Coordinate
    vision_layers: tuple[int, int]
    text_layers: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class NodeCommand:
    """What is started on one machine."""

    node: int
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """Everything that a start needs to know. `nodes` has one entry per machine, `ranks` one per process."""

    method: Method
    layout: Layout
    per_node: int
    environment: tuple[Variable, ...]
    nodes: tuple[NodeCommand, ...]
    ranks: tuple[RankPlace, ...]

    @property
    def world_size(self) -> int:
        return self.layout.world_size


def launch_plan(
    recipe: Recipe, overrides: Iterable[str] = (), extra: Iterable[str] = (), *, master: str = ""
) -> LaunchPlan:
    """Give the plan of a recipe; `overrides` are its --set arguments, `extra` further options of `qvl run`.

    `master` replaces the recipe's meeting point where the environment of a cluster names another.
    """
    layout, launch = recipe.parallel, recipe.launch
    world, nodes = layout.world_size, launch.nodes
    per_node = -(-world // nodes)
    method = _method(recipe)
    words = (recipe.path, *(word for override in overrides for word in ("--set", override)), *extra)
    worker = ("python", "-m", "qvl_core.launch.worker", *words)
    if method == "msrun":
        commands = [_msrun(recipe, master or launch.master, node, per_node, worker) for node in range(nodes)]
    elif method == "mpiexec":
        commands = [mpiexec(world, worker)]
    else:
        commands = [("qvl", "run", *words)]
    return LaunchPlan(
        method=method,
        layout=layout,
        per_node=per_node,
        environment=_environment(recipe),
        nodes=tuple(NodeCommand(node=node, command=command) for node, command in enumerate(commands)),
        ranks=tuple(_rank(rank, layout, per_node) for rank in range(world)),
    )


def _method(recipe: Recipe) -> Method:
    if recipe.parallel.world_size == 1:
        return "in process"
    return "msrun" if recipe.launch.device == "ascend" else "mpiexec"


def _msrun(recipe: Recipe, master: str, node: int, per_node: int, worker: tuple[str, ...]) -> tuple[str, ...]:
    host, _, port = master.rpartition(":")
    timeout = recipe.env.variables().get("MS_TOPO_TIMEOUT", str(CLUSTER_TIMEOUT_S))
    return (
        "msrun",
        f"--worker_num={recipe.parallel.world_size}",
        f"--local_worker_num={per_node}",
        # msrun speaks IPv4 only, and localhost may resolve to ::1.
        f"--master_addr={'127.0.0.1' if host == 'localhost' else host}",
        f"--master_port={port}",
        f"--node_rank={node}",
        f"--log_dir={recipe.output.dir}/logs/node_{node:03d}",
        # Without join, msrun returns at once and a failed worker goes unnoticed.
        "--join=True",
        f"--cluster_time_out={timeout}",
        # Ascend hosts have many NUMA nodes; a worker that wanders over them is slow.
        "--bind_core=True",
        *worker,
    )


def mpiexec(world: int, worker: tuple[str, ...]) -> tuple[str, ...]:
    """Give the command that starts so many processes of a program on this machine's CPU."""
    settings = (
        # Idle ranks yield their core: development machines have fewer cores than ranks.
        ("mpi_yield_when_idle", "1"),
        # All ranks are on this machine and meet in its shared memory. Without this, every one listens on a port for
        # the whole network, and the start takes a second longer.
        ("pml", "ob1"),
        ("btl", "^tcp,ofi"),
    )
    options = (word for name, value in settings for word in ("--mca", name, value))
    return ("mpiexec", "-n", str(world), "--oversubscribe", *options, *worker)


def _environment(recipe: Recipe) -> tuple[Variable, ...]:
    device = recipe.launch.device
    found = {name: Variable(name=name, value=value, origin="qvl: offline") for name, value in _OFFLINE.items()}
    for name, value in _BY_DEVICE[device].items():
        found[name] = Variable(name=name, value=value, origin=f"qvl: {device}")
    if recipe.data.workers > 0:
        # The tokenizer's threads and forked data workers deadlock on each other.
        found["TOKENIZERS_PARALLELISM"] = Variable(
            name="TOKENIZERS_PARALLELISM", value="false", origin="qvl: data.workers"
        )
    for name, value in recipe.env.variables().items():
        found[name] = Variable(name=name, value=value, origin="[env]")
    return tuple(found[name] for name in sorted(found))


def _rank(rank: int, layout: Layout, per_node: int) -> RankPlace:
    node, device = divmod(rank, per_node)
    place = coordinate_of(rank, layout)
    return RankPlace(
        rank=rank,
        node=node,
        device=device,
        place=place,
        vision_layers=layer_range(layout.vision_stages, place.pp),
        text_layers=layer_range(layout.text_stages, place.pp),
    )
