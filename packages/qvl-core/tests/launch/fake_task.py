"""A task of a few steps without a model; FAULT ("kill:1:forward") names what goes wrong, on which rank, and where."""

import os
import signal
import sys
import time
from pathlib import Path

from qvl_core.errors import Problem, RunError, WeightsError
from qvl_core.launch.board import writer_from_environment


def run(recipe, options):
    """The launcher's part."""
    Path(recipe.output.dir).mkdir(parents=True, exist_ok=True)
    print(f"launcher: workers ended, {options.start_workers()}")
    assert "mindspore" not in sys.modules
    return 0


def work(recipe, options):
    """A rank's part."""
    board = writer_from_environment()
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    board.mark("loading weights")
    fault(rank, "load")
    board.mark("connecting", waiting=True)
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    world.barrier()
    board.stamp("connected")
    stops = []

    def note(number, frame):
        stops.append(1)
        # Rank 0 speaks on the screen.
        if rank:
            print(f"asked to stop by {signal.Signals(number).name}", flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    for step in range(1, int(os.environ["STEPS"]) + 1):
        board.mark(f"step {step}: forward")
        time.sleep(0.01)
        if step == 2:
            fault(rank, "forward", board=board)
        board.mark(f"step {step}: sum over data", waiting=True)
        if step == 2:
            fault(rank, "sum", world)
        wanted = world.allreduce(len(stops))
        board.stamp("first step")
        if rank == 0:
            print(f"step {step} done")
        if wanted:
            break
    board.mark("saving")
    fault(rank, "save")


def fault(rank, place, world=None, board=None):
    """Do what FAULT says, if it means this rank and place."""
    kind, _, rest = os.environ["FAULT"].partition(":")
    if rest != f"{rank}:{place}":
        return
    print(f"fault {kind}", flush=True)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        # Whoever continues it wants its stack; another thread may be the one that writes it, a moment later.
        time.sleep(5)
    elif kind == "exit":
        os._exit(7)
    elif kind == "hccl":
        # As CANN dies: a line in the log, its own stack below it, and no Python error.
        print("EJ0003: [PID: 159] Failed to bind the IP port. Reason: The IP address and port have been bound already.")
        print("        TraceBack (most recent call last):\n" + "        frame\n" * 30, flush=True)
        os.abort()
    elif kind == "input":
        raise WeightsError(Problem(where="weights/a.safetensors", message="has 0 bytes", fix="download it again"))
    elif kind == "run":
        raise RunError("the loss is NaN at step 2")
    elif kind == "bug":
        raise ZeroDivisionError("division by zero")
    elif kind == "sleep":
        time.sleep(1000)
    elif kind == "loop":
        while True:
            pass
    elif kind == "deaf":
        # At work for ever, and whatever it is asked.
        while True:
            board.mark("step 2: forward")
            time.sleep(0.05)
    elif kind == "deadlock":
        world.recv(source=1 - rank, tag=77)
    else:
        raise ValueError(kind)
