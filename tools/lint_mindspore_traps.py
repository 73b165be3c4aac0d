"""Find MindSpore operations that are known to be wrong, or not to run on CPU: `python tools/lint_mindspore_traps.py`.

Each ban was measured; the message says what goes wrong and what to write instead. Without arguments it reads
packages/*/src. A line may be allowed with a comment `# trap: <why>`. Exit code 1 where something is found.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ALLOW = "# trap:"

# Silently wrong, or different between plain and compiled execution or between versions: what to write instead.
BANNED_CALLS = {
    "mint.split": "its gradient is silently wrong for a cotangent that is a view; slice, or ops.split",
    "ops.index_add": "it changes its first argument (not so in jit); gather from a cat, or ops.tensor_scatter_add",
    "mint.index_add": "it fails in jit; gather from a cat, or ops.tensor_scatter_add",
    "ops.scatter_add": "it changes a Parameter given to it (not so in jit); ops.tensor_scatter_add",
    "ops.vjp": "closures of it cannot interleave in 2.10; ms.grad of sum(y * dy)",
    "nn.AdamWeightDecay": "it has no bias correction; kernels.adamw_update",
    "ops.AdamWeightDecay": "it has no bias correction; kernels.adamw_update",
    "ms.manual_seed": "it does not reach the random operations on CPU; numpy generators, passed in",
    "ms.set_rng_state": "it does not reach the random operations on CPU; numpy generators, passed in",
}
# No CPU kernel, or only in one of plain, gradient and compiled execution, on a version that we support.
FAILS_ON_CPU = {
    "mint": frozenset({
        "addmm", "arange", "argmax", "argsort", "bincount", "count_nonzero", "cumsum", "einsum", "empty", "full",
        "index_select", "linspace", "logsumexp", "multinomial", "narrow", "norm", "normal", "ones_like", "outer",
        "rand", "randn", "repeat_interleave", "roll", "scatter_add", "searchsorted", "sort", "stack", "std", "topk",
        "transpose", "tril", "unbind", "unique", "var", "zeros_like"
    }),
    "mint.nn.functional": frozenset({
        "conv3d", "cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "log_softmax", "mse_loss",
        "normalize", "one_hot", "pad"
    }),
    "mint.optim": frozenset({"Adam", "AdamW", "FusedAdamW"}),
    "ops": frozenset({
        "einsum", "embedding", "flash_attention_score", "layer_norm", "rms_norm", "roll", "rotary_position_embedding",
        "swiglu"
    }),
}  # fmt: skip
# Runs everywhere, but not as it should on CPU.
SLOW_ON_CPU = {"mint.nn.functional.linear": "it copies the transposed weight on CPU; kernels.linear"}
# They return a new tensor and leave the old one as it was, or raise. (copy_ into a whole tensor does work.)
IN_PLACE = frozenset({
    "abs_", "add_", "addmm_", "bernoulli_", "clamp_", "div_", "exp_", "exponential_", "fill_", "floor_",
    "index_add_", "index_copy_", "index_fill_", "log_", "masked_fill_", "masked_scatter_", "mul_", "neg_",
    "normal_", "pow_", "put_", "random_", "relu_", "scatter_", "scatter_add_", "sigmoid_", "sqrt_", "sub_",
    "tanh_", "uniform_", "zero_"
})  # fmt: skip
# Right only if nobody in the process has differentiated it over a dim of size 1 before: only where that is ruled out.
SOFTMAX = ("ops.softmax", "mint.softmax", "mint.nn.functional.softmax", "ops.Softmax", "nn.Softmax")
SOFTMAX_MODULES = ("qvl_core/kernels/", "qvl_core/conformance/")
# Only these may import mindspore: the light part has to work without it.
MINDSPORE_MODULES = (
    "qvl_core/model/", "qvl_core/kernels/", "qvl_core/parallel/", "qvl_core/generate/", "qvl_core/conformance/",
    "qvl_train/", "qvl_eval/",
)  # fmt: skip
# Ascend forms may call what has no CPU kernel: they never run there.
ASCEND_SUFFIX = "_ascend"


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """One banned use."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def find_traps(source: str, path: str) -> list[Finding]:
    """Return what is banned in a module's source; `path` decides whether it may import mindspore at all."""
    allowed = {number for number, line in enumerate(source.splitlines(), start=1) if ALLOW in line}
    tree = ast.parse(source, path)
    names = _imported_names(tree)
    found = []
    for node, function in _walk(tree, ""):
        if getattr(node, "lineno", 0) in allowed:
            continue
        for message in _messages(node, names, function, path):
            found.append(Finding(path=path, line=node.lineno, message=message))
    return sorted(set(found))


def _walk(node: ast.AST, function: str) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Walk the tree, with the name of the outermost function around each node."""
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not function:
            inner = child.name
        if isinstance(child, (ast.stmt, ast.expr)):
            yield child, inner
        yield from _walk(child, inner)


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """Map the names that stand for something of mindspore to its dotted name without `mindspore.` in front."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mindspore":
                    full = alias.name if alias.asname else "mindspore"
                    names[alias.asname or "mindspore"] = full
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mindspore":
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the name after `mindspore.`, "" for what is not of mindspore."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    full = ".".join([names[node.id], *reversed(parts)])
    return full.partition(".")[2]


def _messages(node: ast.stmt | ast.expr, names: dict[str, str], function: str, path: str) -> Iterator[str]:
    uses_mindspore = bool(names)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from _import_messages(node, path)
    elif isinstance(node, (ast.Attribute, ast.Name)):
        yield from _name_messages(_dotted(node, names), function, path)
    elif isinstance(node, ast.Call) and uses_mindspore and isinstance(node.func, ast.Attribute):
        yield from _method_messages(node.func)
    elif isinstance(node, ast.AugAssign) and uses_mindspore and _may_hold_a_tensor(node):
        yield (
            "augmented assignment to an attribute or item: on a Parameter it rebinds the name to a plain Tensor; "
            "ops.assign"
        )


def _may_hold_a_tensor(node: ast.AugAssign) -> bool:
    """Tell whether the target may be a Parameter: an attribute or item that does not just count up by a constant."""
    return isinstance(node.target, (ast.Attribute, ast.Subscript)) and not isinstance(node.value, ast.Constant)


def _import_messages(node: ast.Import | ast.ImportFrom, path: str) -> Iterator[str]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    if not _is_in(path, MINDSPORE_MODULES) and any(module.split(".")[0] == "mindspore" for module in modules):
        yield (
            "mindspore is imported in the light part; only model, kernels, parallel, generate, conformance, train and "
            "eval may"
        )


def _is_in(path: str, folders: Sequence[str]) -> bool:
    return any(folder in path.replace("\\", "/") for folder in folders)


def _name_messages(name: str, function: str, path: str) -> Iterator[str]:
    short = name if name.split(".")[0] in ("mint", "ops", "nn") else f"ms.{name}"
    if short in BANNED_CALLS:
        yield f"{short}: {BANNED_CALLS[short]}"
    if short in SOFTMAX and not _is_in(path, SOFTMAX_MODULES):
        yield (
            f"{short}: one gradient of it over a dim of size 1 makes every later one of that rank wrong, silently; "
            "kernels.attention, kernels.cross_entropy, or numpy where nothing is differentiated"
        )
    if function.endswith(ASCEND_SUFFIX):
        return
    if short in SLOW_ON_CPU:
        yield f"{short}: {SLOW_ON_CPU[short]}"
    module, _, last = name.rpartition(".")
    if last in FAILS_ON_CPU.get(module, ()):
        yield f"{name} does not run on CPU in every mode and version that we support; the kernel table has what does"


def _method_messages(function: ast.Attribute) -> Iterator[str]:
    if function.attr == "copy_" and isinstance(function.value, ast.Subscript):
        yield "copy_ through a view never writes the right cells; t[...] = v"
    elif function.attr in IN_PLACE:
        yield (
            f"{function.attr} does nothing on CPU (it returns a new tensor) or raises; y = x + ..., "
            "ops.assign for a Parameter"
        )
    elif function.attr in ("set_data", "assign_value"):
        yield (
            f"compiled code that has run once keeps the old values after {function.attr}, silently, whatever changes "
            "the parameter later; ops.assign"
        )
    elif function.attr == "requires_grad_":
        yield "requires_grad_ does not exist in MindSpore 2.7; name the weights in ms.grad"
    elif function.attr == "expand":
        yield "expand fails in jit; mint.broadcast_to"


def main(arguments: Sequence[str]) -> int:
    """Read the given files and folders, or packages/*/src; print the findings and return the exit code."""
    root = Path(__file__).resolve().parent.parent
    places = [Path(x) for x in arguments] or sorted(root.glob("packages/*/src"))
    findings = [x for file in _files(places) for x in find_traps(file.read_text(encoding="utf-8"), str(file))]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield from sorted(place.rglob("*.py")) if place.is_dir() else (place,)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
