"""Which of the run's machines this one is, and where all of them meet: from the command line, SLURM, or variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qvl_core.errors import Problem, RecipeError
from qvl_core.launch.host_list import expand_hosts

# In this order. GROUP_RANK is torchrun's, VC_TASK_INDEX Volcano's.
NODE_RANK_VARIABLES = ("SLURM_NODEID", "NODE_RANK", "GROUP_RANK", "VC_TASK_INDEX")
NODE_COUNT_VARIABLES = ("SLURM_NNODES", "SLURM_JOB_NUM_NODES")
HOST_LIST_VARIABLES = ("SLURM_JOB_NODELIST", "SLURM_NODELIST")
LOCAL_HOSTS = ("localhost", "127.0.0.1")
_WHERE = "environment"


@dataclass(frozen=True, kw_only=True)
class NodePlace:
    """This machine's number among `nodes`, and the meeting point `master` ("host:port").

    `notes` say what was taken from the environment, for people.
    """

    node: int
    nodes: int
    master: str
    notes: tuple[str, ...] = ()


def find_place(*, nodes: int, master: str, node_rank: int | None, environment: Mapping[str, str]) -> NodePlace:
    """Give this machine's place. `nodes` and `master` are the recipe's, `node_rank` the command line's.

    Raises RecipeError, with every problem, where the environment contradicts the recipe or does not say enough.
    """
    if nodes == 1:
        return NodePlace(node=0, nodes=1, master=master)
    node, origin = _node_rank(node_rank, environment)
    problems = [*_check_count(nodes, environment), *_check_tasks(environment), *_check_node(node, nodes, origin)]
    meeting, notes = master, () if origin == "--node-rank" else (f"this is machine {node} of {nodes} ({origin})",)
    if master.rpartition(":")[0].lower() in LOCAL_HOSTS:
        meeting, source = _master_elsewhere(master, environment)
        notes = (*notes, f"the machines meet at {meeting} ({source})")
        if not source:
            problems.append(
                Problem(
                    where=_WHERE,
                    key="launch.master",
                    message=f"is {master}, which the other machines cannot reach, and neither MASTER_ADDR nor "
                    "SLURM_JOB_NODELIST names the first machine",
                    fix="--set launch.master=HOST:29501 with the first machine's host name or IPv4 address",
                )
            )
    if problems:
        raise RecipeError(problems)
    assert node is not None, "_check_node has refused it"
    return NodePlace(node=node, nodes=nodes, master=meeting, notes=notes)


def _node_rank(stated: int | None, environment: Mapping[str, str]) -> tuple[int | None, str]:
    if stated is not None:
        return stated, "--node-rank"
    for name in NODE_RANK_VARIABLES:
        number = _number(environment, name)
        if number is not None:
            return number, name
    return None, ""


def _check_node(node: int | None, nodes: int, origin: str) -> list[Problem]:
    if node is None:
        message = f"launch.nodes is {nodes}, and nothing says which of them this machine is"
        fix = (
            f"--node-rank 0 on the first machine, 1 on the second, ... {nodes - 1} on the last; "
            f"under SLURM: srun --nodes={nodes} --ntasks-per-node=1 qvl run ..."
        )
        return [Problem(where="command line", key="--node-rank", message=message, fix=fix)]
    if node >= nodes:
        message = f"is {node}, launch.nodes is {nodes}: machines are numbered 0 to {nodes - 1}"
        return [
            Problem(where=_WHERE, key=origin, message=message, fix=f"--set launch.nodes={node + 1}, or --node-rank")
        ]
    return []


def _check_count(nodes: int, environment: Mapping[str, str]) -> list[Problem]:
    for name in NODE_COUNT_VARIABLES:
        number = _number(environment, name)
        if number is not None and number != nodes:
            message = f"is {number}, launch.nodes is {nodes}"
            fix = f"allocate {nodes} machines (--nodes={nodes}), or change the layout: --set launch.nodes={number}"
            return [Problem(where=_WHERE, key=name, message=message, fix=fix)]
    return []


def _check_tasks(environment: Mapping[str, str]) -> list[Problem]:
    """Refuse to be started several times on one machine: qvl starts the processes of the machine itself."""
    stated = environment.get("SLURM_NTASKS_PER_NODE", "")
    per_node, local = _number(environment, "SLURM_NTASKS_PER_NODE"), _number(environment, "SLURM_LOCALID")
    if (per_node is None or per_node <= 1) and not local:
        return []
    found = f"SLURM_NTASKS_PER_NODE is {stated}" if per_node and per_node > 1 else f"SLURM_LOCALID is {local}"
    message = f"{found}: SLURM starts qvl several times on a machine, and qvl starts the processes of a machine itself"
    return [Problem(where=_WHERE, key="SLURM", message=message, fix="srun --ntasks-per-node=1 qvl run ...")]


def _master_elsewhere(master: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Give the meeting point and which variable names it; ("...", "") where none does."""
    port = master.rpartition(":")[2]
    stated = environment.get("MASTER_ADDR", "")
    if stated and stated.lower() not in LOCAL_HOSTS:
        return f"{stated}:{environment.get('MASTER_PORT') or port}", "MASTER_ADDR"
    for name in HOST_LIST_VARIABLES:
        hosts = expand_hosts(environment.get(name, ""))
        if hosts:
            return f"{hosts[0]}:{environment.get('MASTER_PORT') or port}", name
    return master, ""


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 7 else None
