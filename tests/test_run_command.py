"""`qvl run` as a process: signals, kills, two runs in one folder, weights of another layout.

The numbers after them are those of a quiet run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.layout import Layout
from qvl_core.specs import load_spec
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.tensor_io import read_tensor

# `sharded_folders` writes folders of any layout; the tests of qvl-core have it.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "packages" / "qvl-core" / "tests" / "weights"))

from digits_project import make_project
from sharded_folders import write_sharded

ROOT = Path(__file__).parents[1]
STEPS = 6
# Nothing takes as long, however busy the machine is.
PATIENCE_S = 1200


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_project(folder, steps=STEPS, save="every = 2", micro_batch=4, workers=2)
    return folder


@pytest.fixture(scope="module")
def straight(project: Path) -> list[tuple[int, float, float]]:
    """Give the losses of a run that nobody disturbs."""
    process = start(project, "straight")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return losses(project / "straight")


def start(project: Path, folder: str, *options: str, fault: str = "") -> subprocess.Popen[str]:
    """Start `qvl run`; a `fault` is one of tests/faults/sitecustomize.py."""
    command = [sys.executable, "-m", "qvl_core.cli", "run", "recipe.toml", "--set", f"output.dir={folder}", *options]
    return subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(_faulty(fault) if fault else {})},
    )


def _faulty(fault: str) -> dict[str, str]:
    path = [str(ROOT / "tests" / "faults"), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "QVL_TEST_RANKS": "1",
        "QVL_TEST_FAULT": fault,
    }


def signal_after(process: subprocess.Popen[str], step: int, number: signal.Signals) -> str:
    """Send the signal once the line of `step` is there; give all that the process printed."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(f"step {step}/"):
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=PATIENCE_S)
    return "".join(seen) + rest


def losses(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows if "loss" in row]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_saves_and_exits_cleanly_and_the_command_goes_on_to_the_bit(
    project: Path, straight: list[tuple[int, float, float]], number: signal.Signals
) -> None:
    folder = f"run_{number.name}"
    # Step 4 waits for the signal: however fast the machine is, the run is not over by then.
    process = start(project, folder, fault="await_request:0:4")
    output = signal_after(process, 3, number)
    assert process.returncode == 0, output
    assert f"stopped by {number.name} after step" in output
    assert "Traceback" not in output
    again = start(project, folder)
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, output
    assert losses(project / folder) == straight


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_kill_loses_at_most_the_steps_since_the_last_checkpoint(
    project: Path, straight: list[tuple[int, float, float]], step: int
) -> None:
    folder = f"run_kill_{step}"
    # A later step never ends, for the same reason.
    process = start(project, folder, fault=f"sleep:0:{min(step + 2, STEPS)}")
    signal_after(process, step, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = start(project, folder)
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, output
    assert losses(project / folder) == straight
    assert not [path.name for path in (project / folder).iterdir() if ".tmp-" in path.name or ".trash-" in path.name]


def test_a_named_checkpoint_goes_on_in_another_layout_with_zero1(
    project: Path, straight: list[tuple[int, float, float]]
) -> None:
    shutil.copytree(project / "straight", project / "moved")
    words = ("--resume", "moved/step_000002", "--set", "layout.tp=2", "--set", "layout.dp=2")
    words = (*words, "--set", "layout.zero1=true", "--set", "train.micro_batch=2")
    process = start(project, "moved", *words)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, output
    assert "train.micro_batch: here 2, there 4" in output
    process = start(project, "moved", *words, "--accept-changes")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "going on with these changes:\n  train.micro_batch: here 2, there 4" in output
    assert "training from step 2 to step 6" in output
    found = losses(project / "moved")
    assert found[:2] == straight[:2]
    # fp32 sums in another order.
    assert [row[1] for row in found] == pytest.approx([row[1] for row in straight], rel=1e-5)
    assert (project / "moved" / "step_000006" / "rank-pp000-tt001.safetensors").is_file()


def test_of_two_runs_in_one_folder_one_is_refused_with_the_others_process(project: Path) -> None:
    first, second = start(project, "shared"), start(project, "shared")
    outputs = [first.communicate(timeout=PATIENCE_S)[0], second.communicate(timeout=PATIENCE_S)[0]]
    codes = sorted([first.returncode, second.returncode])
    # The second may also come after the first has finished, and then finds a finished run.
    if codes == [0, 0]:
        assert "finished" in "".join(outputs)
    else:
        assert codes == [0, 2], outputs
        # Or the first was done before the second had checked its input.
        changed = "another process has used this folder while this one was checking its input"
        assert "another process is writing here" in "".join(outputs) or changed in "".join(outputs), outputs


@pytest.fixture(scope="module")
def cut(project: Path, straight: list[tuple[int, float, float]]) -> Path:
    """Give the weights of the quiet run, cut for two stages and two tensor ranks."""
    hf, folder = project / "straight" / "hf", project / "cut"
    shutil.copytree(hf, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    arrays = {name: read_tensor(entry) for name, entry in open_hf_folder(hf).tensors.items()}
    write_sharded(folder, load_spec(hf), Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3)), arrays)
    return folder


def evaluate(project: Path, weights: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    settings = (f"weights.source={weights}", f"output.dir={project / name}", "eval.limit=8")
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "qvl_core.cli", "run", "recipes/tiny_eval.toml", *words, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_an_evaluation_of_weights_of_another_layout_gives_the_same_answers(project: Path, cut: Path) -> None:
    answers = []
    for weights, name, options in (
        (project / "straight" / "hf", "eval_hf", ()),
        (cut, "eval_cut", ()),
        (cut, "eval_recut", ("--reshard",)),
    ):
        done = evaluate(project, weights, name, *options)
        assert done.returncode == 0, done.stderr
        lines = (project / name / "predictions.jsonl").read_text().splitlines()
        answers.append([json.loads(line)["prediction"] for line in lines])
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 8
    assert f"{cut} is cut for tp 2, pp 2" in done.stderr
    assert not list(project.glob("cut-*"))


def test_training_from_weights_of_another_layout_with_reshard_takes_the_same_steps(project: Path, cut: Path) -> None:
    few = ("--set", "weights.init=checkpoint", "--set", "train.steps=2")
    for weights, name, options in (("straight/hf", "on_hf", ()), ("cut", "on_cut", ("--reshard",))):
        process = start(project, name, *few, "--set", f"weights.source={weights}", *options)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
    assert "cut is cut for tp 2, pp 2 (vision stages 4,0; text stages 1,3)" in output
    assert losses(project / "on_cut") == losses(project / "on_hf")
