"""What mpiexec starts: `program.py FOLDER` works through FOLDER/plan.json on as many ranks as each of its cases needs.

Starting MindSpore takes longer than most cases, so one start serves many: a case gets a communicator of its own, and
cases on different ranks run side by side. All ranks have the same list and take their cases in its order, so no two
wait for each other. Whatever happens is in FOLDER/rank_N.jsonl; a rank that makes no progress ends the program with the
stacks of all threads in FOLDER/rank_N.log.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from cases import Case
from watchdog import Watchdog


def main(folder: Path) -> None:
    """Work through the plan."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    work = importlib.import_module(plan["work"])
    # MPI first says which rank this is.
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank = world.Get_rank()
    log = (folder / f"rank_{rank}.log").open("a", encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    path = folder / f"rank_{rank}.jsonl"
    with path.open("a", encoding="utf-8", buffering=1) as records:
        watchdog = Watchdog(plan["case_limit_s"], path)
        try:
            work.prepare()
            for number, entry in enumerate(plan["entries"]):
                if rank in entry["ranks"]:
                    _run(entry, number, work, Path(plan["references"]), records, watchdog)
        except BaseException:
            _record(records, {"event": "error", "text": traceback.format_exc()})
            world.Abort(1)
        _patiently(MPI, [world.Ibarrier()])
        _record(records, {"event": "finished"})
    MPI.Finalize()
    # MindSpore's threads now and then end a process that has done everything with a signal.
    os._exit(0)


def _run(entry: dict[str, Any], number: int, work: Any, references: Path, records: Any, watchdog: Watchdog) -> None:
    from mpi4py import MPI

    case, world = Case.from_json(entry["case"]), MPI.COMM_WORLD
    _meet(MPI, entry["ranks"], number)
    comm = world.Create_group(world.group.Incl(entry["ranks"]), number)
    _record(records, {"event": "start", "case": case.name})
    watchdog.start()
    result = work.run_case(case, comm, references, watchdog)
    watchdog.stop()
    comm.Free()
    _record(records, {"event": "result", "case": case.name, "result": result})


def _meet(mpi: Any, ranks: list[int], tag: int) -> None:
    """Wait until all ranks of a case are free for it, asleep: MPI's own waiting takes a core from those that work."""
    world = mpi.COMM_WORLD
    others = [rank for rank in ranks if rank != world.Get_rank()]
    buffers = [bytearray(1) for _ in others]
    requests = [world.Irecv([buffer, mpi.BYTE], rank, tag) for buffer, rank in zip(buffers, others, strict=True)]
    requests += [world.Isend([b"!", mpi.BYTE], rank, tag) for rank in others]
    _patiently(mpi, requests)


def _patiently(mpi: Any, requests: list[Any]) -> None:
    while not mpi.Request.Testall(requests):
        time.sleep(0.002)


def _record(records: Any, row: dict[str, Any]) -> None:
    records.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
