"""Everything that is run on this repository, one session a task: `nox -l` is the manual."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PACKAGES = ("core", "convert", "data", "train", "eval")
TORCH = "torch==2.13.0"
PEFT = "peft==0.21.2"
# What others do with images and videos; without what they require, torch would come a second time.
MEDIA_PEERS = ("qwen-vl-utils==0.0.14", "torchvision==0.28.0", "decord==0.6.0")
TEST_TOOLS = ("pytest>=8", "hypothesis>=6.100", "jsonschema>=4.20", "safetensors>=0.4.3")
PARALLEL_TESTS = "pytest-xdist>=3.6"
# Two, however many cores there are: what tests start (ranks, servers, browsers) takes more beside them.
IN_TWO_PROCESSES = ("-n", "2", "--dist", "worksteal")
# Who talks to `qvl serve`: the official client, plain HTTP, and the reader of metrics.
SERVE_TOOLS = ("openai>=2,<4", "httpx>=0.27", "prometheus-client>=0.20")
SUPPORTED = ("3.11", "3.12", "3.10")
# Benchmarks that compare with torch: in a session of their own.
NEED_TORCH = ("training_speed.py", "media.py", "generation.py")

nox.options.sessions = ["lint", "types", "imports", "recipes", "tests"]
nox.options.reuse_existing_virtualenvs = False
nox.options.error_on_missing_interpreters = True
nox.needs_version = ">=2024.4.15"


def _python() -> str | None:
    """Choose this interpreter where it is supported (3.10 to 3.12), else the first supported one that is installed."""
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return None
    found = next((version for version in SUPPORTED if shutil.which(f"python{version}")), None)
    if found is None:
        sys.exit(
            f"qvl needs Python 3.10, 3.11 or 3.12 (MindSpore has no wheel for others); this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}, and none of the three is on PATH.\n"
            "fix: conda create -n qvl python=3.11 && conda activate qvl && pip install nox"
        )
    return found


PYTHON = _python()


def _install(
    session: nox.Session, *packages: str, mindspore: bool = False, mpi: bool = False, serve: bool = False
) -> None:
    """Install our packages from this checkout, siblings included, with what they declare and nothing more."""
    extras = {
        "mindspore": ("core", "train", "eval") if mindspore else (),
        "mpi": ("core", "train") if mpi else (),
        "serve": ("eval",) if serve else (),
    }
    chosen = {name: ",".join(extra for extra, having in extras.items() if name in having) for name in packages}
    session.install(*(f"./packages/qvl-{name}" + (f"[{extra}]" if extra else "") for name, extra in chosen.items()))


@nox.session(python=PYTHON)
def quickstart(session: nox.Session) -> None:
    """Check, train, report, evaluate and ask the tiny model, on CPU: about three minutes after installation."""
    _install(session, *PACKAGES, mindspore=True)
    recipe = "recipes/tiny_sft.toml"
    for folder in ("runs/tiny_sft", "runs/tiny_eval"):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    session.run("qvl", "check", recipe, "recipes/tiny_eval.toml", "recipes/tiny_infer.toml")
    session.run("qvl", "run", recipe)
    session.run("qvl", "run", "recipes/tiny_eval.toml")
    session.run("qvl", "report", "runs/tiny_sft")
    question = ["--image", "recipes/tiny/digits/unseen.png", "--prompt", "Which digit is this?"]
    session.log("a question about a picture that it has not seen:")
    session.run("qvl", "infer", "recipes/tiny_infer.toml", *question)


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    """Run everything that needs no torch, all packages together, in two processes. `-- -n 0 PATH...`: in one."""
    _install(session, *PACKAGES, mindspore=True, mpi=True, serve=True)
    session.install(*TEST_TOOLS, *SERVE_TOOLS, PARALLEL_TESTS)
    others = [f"--ignore=tests/{name}" for name in ("parity", "layouts", "faults")]
    arguments = session.posargs or ["packages", "tests", *others]
    session.run("pytest", *IN_TWO_PROCESSES, *arguments)


@nox.session(python=PYTHON)
def layouts(session: nox.Session) -> None:
    """Train and evaluate in layouts of up to 8 processes, compare with one. `-- --all-curves`, `-- --every`: more."""
    _install(session, *PACKAGES, mindspore=True, mpi=True)
    session.install(*TEST_TOOLS)
    if "--every" in session.posargs:
        arguments = [word for word in session.posargs if word != "--every"]
        if "--folder" not in arguments:
            arguments += ["--folder", "runs/layouts_sweep"]
        session.run("python", "tests/layouts/sweep.py", *arguments)
    else:
        session.run("pytest", "tests/layouts", *session.posargs)


@nox.session(python=PYTHON)
def faults(session: nox.Session) -> None:
    """Kill, stop, starve and mislead whole trainings: each goes on as if nothing had been. QVL_TEST_SEED, _KILLS."""
    _install(session, "core", "data", "train", mindspore=True, mpi=True)
    session.install(*TEST_TOOLS)
    session.run("pytest", "tests/faults", *session.posargs)


def _test_package(package: str) -> None:
    def run(session: nox.Session) -> None:
        runs_models = package in ("train", "eval")
        _install(session, *_with_siblings(package), mindspore=runs_models, mpi=runs_models, serve=package == "eval")
        session.install(*TEST_TOOLS, *(SERVE_TOOLS if package == "eval" else ()))
        session.run("pytest", f"packages/qvl-{package}", *session.posargs)

    run.__doc__ = f"Run the tests of qvl-{package} in a venv that holds it and what it declares, nothing else."
    nox.session(run, python=PYTHON, name=f"tests-{package}")


for _package in PACKAGES:
    _test_package(_package)


def _with_siblings(package: str) -> tuple[str, ...]:
    """Name the package and the siblings that it requires: they are on no index yet, so pip needs their folders."""
    project = nox.project.load_toml(ROOT / f"packages/qvl-{package}/pyproject.toml")["project"]
    required = " ".join(project["dependencies"])
    return (package, *(name for name in PACKAGES if name != package and f"qvl-{name}>" in required))


@nox.session(python=PYTHON)
def parity(session: nox.Session) -> None:
    """Compare with HF transformers, PEFT and torch: logits, gradients, generation, preprocessing, merges, files."""
    session.install(TORCH)
    _install(session, *PACKAGES, mindspore=True)
    session.install(*TEST_TOOLS, PEFT)
    session.install("--no-deps", *MEDIA_PEERS)
    session.run("pytest", "tests/parity", *session.posargs)


def _python_of_oldest_mindspore() -> str | None:
    """Choose this interpreter if MindSpore 2.7.0 has a wheel for it, else 3.11, or 3.10 where there is no other."""
    if (3, 10) <= sys.version_info[:2] <= (3, 11):
        return None
    return next((version for version in ("3.11", "3.10") if shutil.which(f"python{version}")), "3.11")


@nox.session(python=_python_of_oldest_mindspore())
def minimum(session: nox.Session) -> None:
    """Run the packages' tests on the lowest declared versions and the oldest MindSpore, 2.7.0."""
    lowest = Path(session.create_tmp()) / "lowest.txt"
    lowest.write_text("".join(f"{pin}\n" for pin in _lowest_versions()))
    session.log(f"lowest declared versions: {', '.join(_lowest_versions())}")
    # Constraints, not requirements: pip then fails where a bound cannot be installed, instead of passing it over.
    session.env["PIP_CONSTRAINT"] = str(lowest)
    _install(session, *PACKAGES, mindspore=True, mpi=True, serve=True)
    # Under the same constraints: test tools must not lift what is to be tested.
    session.install(*TEST_TOOLS, *SERVE_TOOLS, PARALLEL_TESTS)
    session.env.pop("PIP_CONSTRAINT")
    session.run("pytest", *IN_TWO_PROCESSES, *(session.posargs or ["packages"]))


def _lowest_versions() -> list[str]:
    """Give `name==version` for the lower bound of every dependency that is not ours."""
    pins = set()
    for package in PACKAGES:
        project = nox.project.load_toml(ROOT / f"packages/qvl-{package}/pyproject.toml")["project"]
        extras = project.get("optional-dependencies", {}).values()
        for requirement in [*project["dependencies"], *(one for extra in extras for one in extra)]:
            name, _, rest = requirement.partition(">=")
            if not name.startswith("qvl-"):
                pins.add(f"{name}=={rest.split(',')[0]}")
    return sorted(pins)


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Check style, formatting, spelling and the MindSpore traps."""
    session.install("ruff==0.17.6", "codespell==2.4.3")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("python", "tools/lint_mindspore_traps.py")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Check types."""
    _install(session, *PACKAGES, mpi=True)
    session.install("mypy==2.4.1", "pandas-stubs")
    session.run("mypy")


@nox.session(python=PYTHON)
def imports(session: nox.Session) -> None:
    """Check who may import whom."""
    _install(session, *PACKAGES)
    session.install("import-linter==2.16")
    session.run("lint-imports")


@nox.session(python=PYTHON)
def recipes(session: nox.Session) -> None:
    """Check every shipped recipe, with qvl-core alone installed, as a user's repository would."""
    _install(session, "core")
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.toml"))
    style = "github" if os.environ.get("GITHUB_ACTIONS") else "text"
    session.run("qvl", "check", *files, "--format", style)


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """Check that the pages are true: commands exist, links lead somewhere, generated tables are up to date."""
    _install(session, *PACKAGES)
    session.install(*TEST_TOOLS)
    session.run("python", "tools/check_files.py")
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session(python=PYTHON)
def bench(session: nox.Session) -> None:
    """Print side-by-side measurements as JSON; asserts no time."""
    _install(session, *PACKAGES, mindspore=True, mpi=True, serve=True)
    session.install("psutil", *SERVE_TOOLS)
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        if script.name not in NEED_TORCH:
            session.run("python", str(script), *session.posargs)


@nox.session(python=PYTHON, name="bench-torch")
def bench_torch(session: nox.Session) -> None:
    """Measure training, generation and media against HF and torch, results compared first; JSON; asserts no time."""
    session.install(TORCH)
    _install(session, *PACKAGES, mindspore=True)
    session.install("--no-deps", *MEDIA_PEERS)
    for name in NEED_TORCH:
        session.run("python", str(ROOT / "benchmarks" / name), *session.posargs)


@nox.session(python=PYTHON)
def npu(session: nox.Session) -> None:
    """On a machine with NPUs: prove kernels and recipes, `-- RECIPE...`; uses the MindSpore that is installed there."""
    session.log("expects the MindSpore of this machine: run with --no-venv, or install it into this venv first")
    session.run("python", "-m", "qvl_core.conformance.npu", *session.posargs)
