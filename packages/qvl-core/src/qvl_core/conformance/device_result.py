"""The one file that a machine with NPUs writes (`nox -s npu`), and what it has to show before a recipe is raised by it.

No framework is imported here: `qvl recipes` reads the file anywhere. Nothing that the file says of itself counts:
verdicts are made again from its numbers, with the tolerances and the golden losses of this version. The digest and the
like keep out accidents and edits, not a forger who runs this code; what enters the repository is read by a person.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.conformance.case_list import TIMED, missing
from qvl_core.conformance.tolerance import tolerance_of
from qvl_core.errors import RecipeError
from qvl_core.input_file import printable
from qvl_core.json_file import read_json_object

FORMAT = 1
RESULT_FILE = "device_result.json"
GOLDEN_FILE = Path(__file__).with_name("golden_tiny_sft.json")
MOST_BYTES = 32 * 2**20
# Known-bad kernels that are wrong on a device too.
SELF_TESTS = 4
# Chosen, not measured: bf16 on a device against fp32 on CPU, 40 steps from the same weights and samples.
GOLDEN_STEP, GOLDEN_MEAN = 0.10, 0.03
# Nearer than this at every step no half precision comes (its own step is 0.4 % or 0.05 %): those are fp32 numbers.
GOLDEN_NEAREST = 1e-4
HALF = ("float16", "bfloat16")
LEAST_STEPS = 20
# How npu-smi calls NPUs that can train: 910B3, Ascend910_9392, 950...; as seen in public output, not on a device.
NPU_NAME = re.compile(r"\b(?:Ascend)?9[15]0\w*")
# What a verifying run may state otherwise than the recipe: nothing that decides what is computed but the length.
FREE_OVERRIDES = ("train.steps", "output.dir", "launch.device", "launch.devices_per_node", "model.dtype")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of the file: the recipe's name and digest, and the loss of each step."""

    recipe: str
    digest: str
    device: str
    overrides: Mapping[str, Any]
    exit_code: int
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceResult:
    """A result file: where it was made, why it is not taken (nothing if it is), and its trainings.

    `other_forms` says of each kernel that was tried in another form than its own whether that conforms, or why not. No
    recipe depends on it: those forms run only where they are asked for.
    """

    where: str
    problems: tuple[str, ...]
    trainings: tuple[Training, ...] = ()
    other_forms: tuple[str, ...] = ()

    def verifies(self, recipe: str, digest: str) -> bool:
        """Tell whether the file raises this recipe: it is taken, and holds a good training of exactly this recipe."""
        return not self.problems and any(
            x.recipe == recipe and x.digest == digest and not _training_problems(x) for x in self.trainings
        )


def read_device_result(path: Path) -> DeviceResult:
    """Read a result file and judge it. A file that cannot be read or is damaged is one with problems."""
    try:
        data = read_json_object(path, error_type=RecipeError, limit=MOST_BYTES)
        return judge(data)
    except RecipeError as error:
        return DeviceResult(where=str(path), problems=tuple(problem.message for problem in error.problems))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return DeviceResult(where=str(path), problems=(f"not a result file: {type(error).__name__} {error}",))


def judge(data: Mapping[str, Any]) -> DeviceResult:
    """Judge the content of a result file. Raises KeyError, TypeError or ValueError where it has another structure."""
    if data.get("format") != FORMAT:
        return DeviceResult(where="", problems=(f"format {data.get('format')!r}; this version reads {FORMAT}",))
    where = f"{data['device_name']}, MindSpore {data['mindspore']}, CANN {data['cann']}, {data['made']}"
    trainings = tuple(_training(entry) for entry in data["trainings"])
    problems = [*_origin(data), *_kernels(data), *_timings(data["timings"]), *_golden(trainings)]
    # Files from before there were other forms have none.
    forms = tuple(_other_form(part, data["precision"]) for part in data.get("other_forms", ()))
    return DeviceResult(where=where, problems=tuple(problems), trainings=trainings, other_forms=forms)


def content_digest(data: Mapping[str, Any]) -> str:
    """Return the sha256 of everything in the file but its own digest."""
    content = {key: value for key, value in data.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def program_digest() -> str:
    """Return the sha256 of the sources of the kernels and of this suite: a result holds for the code that it ran."""
    core = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*core.glob("kernels/*.py"), *core.glob("conformance/*.py"), *core.glob("conformance/*.json")]):
        digest.update(f"{path.relative_to(core).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _origin(data: Mapping[str, Any]) -> Iterable[str]:
    if data["digest"] != content_digest(data):
        yield "was changed after it was written: its digest is another"
    if data["program"] != program_digest():
        yield "was made with other kernels or another suite than these: run `nox -s npu` again"
    if (data["device"], data["kernels"]) != ("ascend", "ascend"):
        yield f"was made on {data['device']} with the {data['kernels']} kernels, not with the fused ones on an NPU"
    if not re.search(r"npu-smi\s+\d", data["npu_smi"]) or not NPU_NAME.search(data["npu_smi"]):
        yield "holds no output of npu-smi that shows an NPU"
    if data["signatures"]:
        yield f"other signatures than recorded: {'; '.join(data['signatures'])}"


def _kernels(data: Mapping[str, Any]) -> Iterable[str]:
    """Judge contracts and checks by their errors: those of every case are there, and none is above its tolerance."""
    checks, contracts, precision = data["checks"], data["contracts"], data["precision"]
    if precision not in HALF:
        yield f"checked in {precision}, in which attention has no fused form"
        return
    for lacking in missing(checks, contracts):
        yield f"an incomplete run: {lacking}"
    yield from _failures((*checks, *contracts), precision)
    if sum(bool(test["caught_by"]) for test in data["self_tests"]) < SELF_TESTS:
        yield "the suite did not notice all kernels that are wrong on purpose"


def _failures(checks: Iterable[Mapping[str, Any]], precision: str) -> Iterable[str]:
    for check in checks:
        if not _number(check["error"]) or not 0 <= check["error"] <= tolerance_of(check["check"], precision):
            yield f"failed: {check['kernel']}, {check['label']}, {check['check']}: error {check['error']}"
        elif check["message"]:
            yield f"failed: {check['kernel']}, {check['label']}, {check['check']}: {check['message']}"


def _other_form(part: Mapping[str, Any], precision: str) -> str:
    """Say whether a kernel conforms in another form: every case of it was checked, and none is above its tolerance."""
    kernel, checks, contracts = str(part["kernel"]), part["checks"], part["contracts"]
    name = printable(f"{kernel} in the form {part['form']}", 80)
    problems = [f"an incomplete run: {lacking}" for lacking in missing(checks, contracts, (kernel,))]
    if precision in HALF:
        problems += _failures((*checks, *contracts), precision)
    else:
        problems.append(f"checked in {printable(str(precision), 20)}, in which it has no fused form")
    if part.get("message"):
        # What ended it is why the rest is missing.
        problems = [str(part["message"])]
    if not problems:
        return f"{name}: conforms, {len(checks)} checks and {len(contracts)} contracts"
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{name}: does not conform: {printable(problems[0], 200)}{more}"


def _timings(timings: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Ask for a timing of every kernel and label: what a device refuses there, no other check may have tried."""
    for kernel, label in TIMED:
        mine = [x for x in timings if (x["kernel"], x["label"]) == (kernel, label)]
        message = next((str(x["message"]) for x in mine if x.get("message")), "")
        if message:
            yield f"no timing of {kernel}, {label}: {printable(message)}"
        elif not mine or not all(_number(x[key]) and x[key] > 0 for x in mine for key in ("fused_ms", "reference_ms")):
            yield f"no timing of {kernel}, {label}"


def _golden(trainings: Sequence[Training]) -> Iterable[str]:
    """Judge the golden training against the losses that come with this version."""
    golden = read_golden()
    mine = next((x for x in trainings if x.recipe == golden["recipe"]), None)
    if mine is None:
        yield f"no training of {golden['recipe']}"
        return
    yield from (f"the training of {golden['recipe']} {fault}" for fault in _not_as_golden(mine))
    if len(mine.losses) != len(golden["losses"]):
        yield f"{len(mine.losses)} steps of {golden['recipe']}, not {len(golden['losses'])}"
        return
    off = [abs(found - loss) / loss for found, loss in zip(mine.losses, golden["losses"], strict=True)]
    if max(off) <= GOLDEN_NEAREST:
        yield f"losses of {golden['recipe']} are the golden ones to the last digits: float32, no half precision"
    if not max(off) <= GOLDEN_STEP or not sum(off) / len(off) <= GOLDEN_MEAN:
        worst = f"{max(off):.1%} at step {off.index(max(off)) + 1}, {sum(off) / len(off):.1%} in the mean"
        yield f"losses of {golden['recipe']} differ from the golden ones by {worst}"


def _not_as_golden(training: Training) -> Iterable[str]:
    """Say where the golden training ran otherwise than `nox -s npu` runs it; output.dir may be any."""
    yield from _run_faults(training)
    wanted = golden_overrides("ascend")
    stated = {key: value for key, value in training.overrides.items() if key != "output.dir"}
    for key in sorted({*wanted, *stated}):
        if stated.get(key) != wanted.get(key):
            yield f"has {key} = {printable(repr(stated.get(key)), 60)}, not {wanted.get(key)!r}"


def _run_faults(training: Training) -> Iterable[str]:
    if training.device != "ascend":
        yield f"ran on {printable(training.device, 60)}"
    if training.exit_code != 0:
        yield f"ended with exit code {printable(str(training.exit_code), 20)}"


def golden_overrides(device: str) -> dict[str, Any]:
    """Return what the golden training states otherwise than its recipe on this device, but for output.dir."""
    overrides = {**read_golden()["overrides"], "launch.device": device}
    return overrides | ({"launch.devices_per_node": 1, "model.dtype": "bfloat16"} if device == "ascend" else {})


def read_golden() -> Mapping[str, Any]:
    """Return the golden training: recipe, overrides, and the loss of each step as measured on CPU in fp32."""
    golden: Mapping[str, Any] = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    return golden


def _training(entry: Mapping[str, Any]) -> Training:
    return Training(
        recipe=str(entry["recipe"]), digest=str(entry["digest"]), device=str(entry["device"]),
        overrides=dict(entry["overrides"]), exit_code=_whole(entry["exit_code"]),
        losses=tuple(float(loss) for loss in entry["losses"]),
    )  # fmt: skip


def _training_problems(training: Training) -> tuple[str, ...]:
    """Say why a training verifies no recipe."""
    problems = [*_run_faults(training)]
    losses = training.losses
    if (dtype := training.overrides.get("model.dtype", HALF[0])) not in HALF:
        problems.append(f"computes in {dtype}, not in half precision")
    if training.overrides.get("launch.device", "ascend") != "ascend":
        problems.append("launch.device is not ascend")
    if changed := sorted(set(training.overrides) - set(FREE_OVERRIDES)):
        problems.append(f"other settings than the recipe's: {', '.join(changed)}")
    if len(losses) < LEAST_STEPS:
        problems.append(f"{len(losses)} steps, at least {LEAST_STEPS} are needed")
    elif not all(math.isfinite(loss) and loss > 0 for loss in losses):
        problems.append("a loss that is no positive number")
    elif not sum(losses[-5:]) < sum(losses[:5]):
        problems.append("the loss does not fall")
    return tuple(problems)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"an exit code is a whole number, not {printable(repr(value), 60)}")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
