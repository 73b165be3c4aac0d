"""Measure the optimizer's part of a training step on one core: update, norm, clipping; print JSON.

    python benchmarks/optimizer.py [--model small|tiny] [--rounds 7] [--quick] [--joined 0 16384]

The tensors are those of the model with random gradients; `small` is the shape of 92.4 million parameters that the
training benchmark uses. Every variant has its own parameters and takes its turn in every round, so that a busy machine
slows all of them. Times are processor time in ms, as median, least and most; ratios are taken within a round.

`joined N` is what a training run does, with tensors of at most N elements joined (0: none). `loop` is ops.Adam on one
tensor after another with nothing around it, the least that a loop costs. `bfloat16` has bfloat16 parameters with fp32
master weights. The torch variants are there where torch is installed, with the same numbers; the largest difference of
any weight after all rounds is given. Nothing here says anything about NPUs, and nothing is a test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LR, BETA1, BETA2, EPS, DECAY = 1e-4, 0.9, 0.999, 1e-8, 0.1
CLIP_SCALE = 0.37


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("small", "tiny"), default="small")
    parser.add_argument("--rounds", type=int, help="7; 3 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the tiny model")
    parser.add_argument("--joined", type=int, nargs="+", help="sizes up to which tensors are joined")
    # `nox -s bench -- --quick` gives the same words to every script.
    given = parser.parse_known_args()[0]
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    from qvl_core import device

    device.prepare("cpu")
    device.require_mindspore()
    rows = table(model_spec("tiny" if given.quick else given.model))
    rounds = given.rounds or (3 if given.quick else 7)
    report = {
        "machine": {
            "cores_used": 1,
            "python": platform.python_version(),
            "mindspore": version("mindspore"),
            "torch": version("torch") if importlib.util.find_spec("torch") else None,
            "load_at_start": os.getloadavg()[0],
        },
        "model": {"tensors": len(rows), "parameters": sum(row.size for row in rows)},
        "rounds": rounds,
        **measure(rows, rounds, given.joined),
    }
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))


def version(name: str) -> str:
    """Give the version of an installed distribution."""
    import importlib.metadata

    return importlib.metadata.version(name)


def model_spec(name: str) -> Any:
    """Give the tiny model that ships with qvl-core, or `small`."""
    from qvl_core.specs import load_spec
    from training.shape import SMALL

    return load_spec("qwen2.5-vl-tiny") if name == "tiny" else SMALL


def table(spec: Any) -> Sequence[Any]:
    """Give the rows of the parameter table."""
    from qvl_core.params import parameter_table

    return parameter_table(spec)


def measure(rows: Sequence[Any], rounds: int, joined: Sequence[int] | None) -> dict[str, Any]:
    """Run all variants in turn; give times, ratios and how far the weights are apart at the end."""
    from mindspore import Tensor, mint, ops
    from qvl_core import kernels
    from qvl_train.slots import JOINED_ELEMENTS

    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(row.shape, np.float32) * np.float32(0.02) for row in rows]
    gradients = [generator.standard_normal(row.shape, np.float32) for row in rows]
    given = [Tensor(array) for array in gradients]
    variants: dict[str, Callable[[int], object]] = {}
    results: dict[str, Callable[[], list[np.ndarray]]] = {}
    for limit in joined if joined is not None else (0, JOINED_ELEMENTS):
        for name, options in ((f"joined {limit}", {}), (f"joined {limit}, decay", {"decay": DECAY})):
            variants[name], results[name] = own_update(rows, weights, given, limit, **options)
    last = joined[-1] if joined is not None else JOINED_ELEMENTS
    variants["joined, clipped"], _ = own_update(rows, weights, given, last, scale=CLIP_SCALE)
    variants["joined, bfloat16"], _ = own_update(rows, weights, given, last, dtype="bfloat16")
    variants["loop"], results["loop"] = plain_loop(weights, given)
    variants["norm"] = lambda step: kernels.sum_of_squares(given)
    variants["norm, one sum for each tensor"] = lambda step: ops.stack([mint.sum(g * g) for g in given]).asnumpy()
    if importlib.util.find_spec("torch") is not None:
        more, theirs = torch_variants(weights, gradients)
        variants |= more
        results |= theirs
    times: dict[str, list[float]] = {name: [] for name in variants}
    for step in range(1, rounds + 2):
        for name, run in variants.items():
            started = time.process_time()
            run(step)
            # The first round makes caches and memory pools.
            if step > 1:
                times[name].append(1e3 * (time.process_time() - started))
    return {
        "ms": {name: spread(found) for name, found in times.items()},
        "ratio_to_loop": {name: spread(divided(times[name], times["loop"])) for name in results},
        "ratio_to_torch": {
            ours: spread(divided(times[ours], times[theirs]))
            for ours, theirs in ((f"joined {last}", "torch fused"), (f"joined {last}, decay", "torch fused, decay"),
                                 ("norm", "torch norm"))
            if theirs in times
        },
        "largest_difference": differences(results),
    }  # fmt: skip


def own_update(
    rows: Sequence[Any], weights: Sequence[np.ndarray], given: Sequence[Any], limit: int, *,
    decay: float = 0.0, scale: float = 1.0, dtype: str = "float32",
) -> tuple[Callable[[int], object], Callable[[], list[np.ndarray]]]:  # fmt: skip
    """Give the update of a training run and a function that reads its weights."""
    import mindspore as ms
    from mindspore import Parameter, Tensor
    from qvl_core.parallel.single import SingleGroup
    from qvl_train.optimizer import AdamW, AdamWSettings

    parameters = {
        row.name: Parameter(Tensor(array).astype(getattr(ms, dtype)), name=row.name)
        for row, array in zip(rows, weights, strict=True)
    }
    settings = AdamWSettings(beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=decay, lr_scale={})
    optimizer = AdamW(parameters, rows, settings, SingleGroup(), joined_elements=limit)
    return (
        lambda step: optimizer.update(given, lr=LR, step=step, scale=scale),
        lambda: [value.asnumpy() for value in parameters.values()],
    )


def plain_loop(
    weights: Sequence[np.ndarray], given: Sequence[Any]
) -> tuple[Callable[[int], object], Callable[[], list[np.ndarray]]]:
    """Give ops.Adam on one tensor after another, without decay."""
    from mindspore import Parameter, Tensor
    from qvl_core import kernels

    states = [[Parameter(Tensor(array)), *(Parameter(Tensor(0 * array)) for _ in "mv")] for array in weights]

    def update(step: int) -> None:
        for state, gradient in zip(states, given, strict=True):
            kernels.adamw_update(
                *state, gradient, lr=LR, beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=0.0, step=step
            )

    return update, lambda: [state[0].asnumpy() for state in states]


def torch_variants(
    weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]
) -> tuple[dict[str, Callable[[int], object]], dict[str, Callable[[], list[np.ndarray]]]]:
    """Give torch's AdamW in its forms for CPU, its norm and its clipping."""
    import torch

    torch.set_num_threads(1)
    variants: dict[str, Callable[[int], object]] = {}
    results: dict[str, Callable[[], list[np.ndarray]]] = {}

    def make(name: str, decay: float, **form: bool) -> list[Any]:
        parameters = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in weights]
        groups = [
            {"params": [value for value in parameters if value.ndim > 1], "weight_decay": decay},
            {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
        ]
        for value, gradient in zip(parameters, gradients, strict=True):
            value.grad = torch.from_numpy(gradient.copy())
        optimizer = torch.optim.AdamW(groups, lr=LR, betas=(BETA1, BETA2), eps=EPS, **form)
        variants[name] = lambda step: optimizer.step()
        results[name] = lambda: [value.detach().numpy() for value in parameters]
        return parameters

    make("torch fused", 0.0, fused=True)
    make("torch fused, decay", DECAY, fused=True)
    make("torch foreach", 0.0, foreach=True)
    make("torch loop", 0.0, foreach=False)
    lone = [torch.from_numpy(gradient.copy()) for gradient in gradients]
    variants["torch norm"] = lambda step: float(torch.nn.utils.get_total_norm(lone))
    # Their norm stays at 1 after the first round: measured is norm, comparison and multiplication.
    variants["torch norm and clipping"] = lambda step: torch.nn.utils.clip_grads_with_norm_(
        [_with_gradient(torch, tensor) for tensor in lone], 1.0, torch.nn.utils.get_total_norm(lone)
    )
    return variants, results


def _with_gradient(torch: Any, tensor: Any) -> Any:
    holder = torch.nn.Parameter(tensor)
    holder.grad = tensor
    return holder


def differences(results: dict[str, Callable[[], list[np.ndarray]]]) -> dict[str, float]:
    """Give the largest difference of any weight from that of `loop`, or of torch's decay where there is decay."""
    values = {name: read() for name, read in results.items()}
    found = {}
    for name, arrays in values.items():
        reference = "torch fused, decay" if "decay" in name else "loop"
        if reference in values and reference != name:
            pairs = zip(arrays, values[reference], strict=True)
            found[f"{name} from {reference}"] = max(float(np.abs(one - other).max()) for one, other in pairs)
    return found


def divided(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [one / other for one, other in zip(over, under, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give median, least and most."""
    return {
        "median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
