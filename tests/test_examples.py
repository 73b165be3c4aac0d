"""The examples for Ascend, as far as a machine without CANN, SLURM or Kubernetes can tell."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from qvl_core import load_recipe
from qvl_core.cli import plugins
from qvl_core.cli.app import CORE_COMMANDS, build_app
from qvl_core.cli.doctor.ascend import MANAGERS
from qvl_core.launch.node_place import find_place

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "ascend"


@pytest.fixture(autouse=True)
def project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    # Paths in recipes are relative to where commands run: the project's root.
    monkeypatch.chdir(ROOT)


def commands(name: str) -> list[list[str]]:
    """Give the words after `qvl` of every command in an example, with the script's own defaults for its variables."""
    text = (FOLDER / name).read_text(encoding="utf-8").replace("\\\n", " ")
    defaults = dict(re.findall(r"^(\w+)=\$\{\w+:-(\S+)\}$", text, re.MULTILINE))
    lists = [json.loads(found) for found in re.findall(r"^(?:CMD|\s+args:) (\[.*\])$", text, re.MULTILINE)]
    # In comments too: how the script is called.
    shell = [line.lstrip("# ") for line in text.splitlines() if re.search(r"(?:^#.*container\.sh|^srun.*) qvl ", line)]
    for line in shell:
        filled = re.sub(r"\$(\w+)", lambda found: defaults[found[1]], line.partition("||")[0])
        lists.append(shlex.split(filled[filled.index("qvl ") :]))
    return [words[1:] for words in lists if words[0] == "qvl"]


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Dockerfile", [["doctor"]]),
        ("container.sh", [["doctor"]]),
        ("slurm.sh", [["doctor", "--recipe"], ["run", "--set"]]),
        ("kubernetes.yaml", [["run", "--set"]]),
    ],
)
def test_every_command_is_one_with_its_options(name: str, called: list[list[str]]) -> None:
    found = commands(name)
    assert [[words[0], *(x for x in words if x.startswith("--"))] for words in found] == called
    loaded = plugins.load_plugins(CORE_COMMANDS, None, debug=False)
    root: Any = typer.main.get_command(build_app(CORE_COMMANDS, loaded.plugins))
    for words in found:
        command = root.commands[words[0]]
        command.make_context(command.name, words[1:])
        settings = [value for option, value in pairwise(words) if option == "--set"]
        for recipe in (word for word in words if word.endswith(".toml")):
            load_recipe(recipe, settings)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_it_says_what_nobody_here_has_tried(path: Path) -> None:
    assert re.search(r"[Nn]ot (run|built)( on NPUs)? by anybody here", path.read_text(encoding="utf-8"))


class TestDockerfile:
    def instructions(self) -> list[tuple[str, str]]:
        text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]

    def test_the_base_image_is_named_by_a_build_argument_alone(self) -> None:
        assert self.instructions()[:2] == [("ARG", "CANN_IMAGE"), ("FROM", "${CANN_IMAGE}")]

    def test_mindspore_has_no_default_version(self) -> None:
        assert ("ARG", "MINDSPORE") in self.instructions()

    def test_what_it_copies_is_there(self) -> None:
        sources = [words.split()[0] for name, words in self.instructions() if name == "COPY"]
        assert sources
        assert all((ROOT / source).is_dir() for source in sources)

    def test_it_installs_every_package_without_the_extra_that_replaces_mindspore(self) -> None:
        (command,) = [words for name, words in self.instructions() if name == "RUN" and "./packages" in words]
        assert set(re.findall(r"\./packages/([\w-]+)", command)) == {path.name for path in ROOT.glob("packages/qvl-*")}
        assert "mindspore" not in command


@pytest.mark.parametrize("script", ["slurm.sh", "container.sh"])
def test_scripts_parse(script: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    assert subprocess.run(["bash", "-n", str(FOLDER / script)], check=False).returncode == 0


def _called(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with stand-ins for docker, srun and scontrol that print what they are called with."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    for name in ("docker", "srun", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@"\nexit ${{{name}_code:-0}}\n')
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7", **variables}
    command = ["bash", str(FOLDER / script), *(["qvl", "doctor"] if script == "container.sh" else [])]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_the_container_starts_without_a_terminal_and_mounts_what_is_there(tmp_path: Path) -> None:
    done = _called("container.sh", tmp_path)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:2] == ["docker", "run"]
    assert words[-3:] == ["qvl", "qvl", "doctor"]
    assert "-it" not in words
    mounts = [word.split(":")[0] for before, word in pairwise(words) if before == "-v"]
    assert all(Path(mount).exists() for mount in mounts)


@pytest.mark.parametrize(("code", "queued"), [("0", False), ("1", True), ("2", False), ("3", False)])
def test_a_job_is_queued_again_for_a_run_that_broke_only(tmp_path: Path, code: str, queued: bool) -> None:
    (tmp_path / "set_env.sh").write_text('echo "$UNSET_VARIABLE" > /dev/null\n')
    # The first srun is the doctor's: it passes.
    srun = f'#!/bin/sh\necho srun "$@"\ncase "$*" in *doctor*) exit 0;; *) exit {code};; esac\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(srun)
    (tmp_path / "bin" / "srun").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{tmp_path}:/usr/bin:/bin"
    done = _called("slurm.sh", tmp_path, SET_ENV=str(tmp_path / "set_env.sh"), PATH=path)
    assert done.returncode == int(code)
    assert ("scontrol requeue 7" in done.stdout) == queued


def test_a_job_without_its_cann_or_its_doctor_starts_nothing(tmp_path: Path) -> None:
    done = _called("slurm.sh", tmp_path, SET_ENV=str(tmp_path / "nowhere.sh"))
    assert (done.returncode, done.stdout) == (3, "")
    (tmp_path / "set_env.sh").write_text("")
    done = _called("slurm.sh", tmp_path, SET_ENV=str(tmp_path / "set_env.sh"), srun_code="3")
    assert (done.returncode, done.stdout.count("srun ")) == (3, 1)


@pytest.mark.parametrize("place", ["cann", "ascend-toolkit"])
def test_a_job_finds_its_cann_where_this_and_earlier_versions_put_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "Ascend" / place).mkdir(parents=True)
    (tmp_path / "Ascend" / place / "set_env.sh").write_text(f"echo from {place}\n")
    text = (FOLDER / "slurm.sh").read_text(encoding="utf-8").replace("/usr/local/Ascend", str(tmp_path / "Ascend"))
    script = tmp_path / "slurm.sh"
    script.write_text(text)
    done = _called(str(script), tmp_path)
    assert done.stdout.splitlines()[0] == f"from {place}", done.stderr
    (tmp_path / "Ascend" / place / "set_env.sh").unlink()
    done = _called(str(script), tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no set_env.sh of CANN" in done.stderr


def steps_of_image(text: str) -> tuple[str, str]:
    """Give the Dockerfile's commands that check CANN's script and that write the way in."""
    check, write = (
        line.removeprefix("RUN ") for line in text.splitlines() if line.startswith(("RUN if", "RUN printf"))
    )
    return check, write


@pytest.mark.parametrize("place", ["cann", "ascend-toolkit"])
def test_the_image_finds_its_cann_where_this_and_earlier_versions_put_it(tmp_path: Path, place: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    text = text.replace("/usr/local/Ascend", str(tmp_path / "Ascend")).replace("/usr/local/bin", str(tmp_path))
    (places,) = re.findall(r'ARG SET_ENV_PLACES="(.*)"', text)
    check, write = steps_of_image(text)
    environment = {"PATH": os.environ["PATH"], "MINDSPORE": "2.7.2", "SET_ENV": "", "SET_ENV_PLACES": places}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True)
    nothing = run(["bash", "-eo", "pipefail", "-c", check], check=False)
    assert (nothing.returncode, "--build-arg SET_ENV=PATH" in nothing.stdout) == (1, True)
    (tmp_path / "Ascend" / place).mkdir(parents=True)
    (tmp_path / "Ascend" / place / "set_env.sh").write_text(f"export FROM_CANN={place}\n")
    for command in (check, write):
        run(["bash", "-eo", "pipefail", "-c", command], check=True)
    assert run([str(tmp_path / "with-cann"), "printenv", "FROM_CANN"], check=True).stdout == f"{place}\n"


def test_the_image_checks_the_script_that_its_way_in_sources(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    text = text.replace("/usr/local/bin", str(tmp_path))
    places = []
    for name in ("first", "second"):
        (tmp_path / f"{name}.sh").write_text(f"export FROM_CANN={name}\n")
        places.append(str(tmp_path / f"{name}.sh"))
    check, write = steps_of_image(text)
    environment = {"PATH": os.environ["PATH"], "MINDSPORE": "2.7.2", "SET_ENV": "", "SET_ENV_PLACES": " ".join(places)}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True)
    checked = run(["bash", "-eo", "pipefail", "-c", check], check=True)
    assert checked.stdout == f"CANN's variables come from {places[0]}\n"
    run(["bash", "-eo", "pipefail", "-c", write], check=True)
    assert run([str(tmp_path / "with-cann"), "printenv", "FROM_CANN"], check=True).stdout == "first\n"
    # A script that is stated is the only one looked for.
    environment["SET_ENV"] = str(tmp_path / "third.sh")
    refused = run(["bash", "-eo", "pipefail", "-c", check], check=False)
    assert (refused.returncode, refused.stdout.startswith(f"no {tmp_path}/third.sh in the image")) == (1, True)


def test_the_way_into_the_container_sources_cann_and_passes_words_on(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("RUN printf")]
    written = line.removeprefix("RUN ").replace("/usr/local/bin/with-cann", str(tmp_path / "with-cann"))
    (tmp_path / "set_env.sh").write_text("export FROM_CANN=yes\nfalse\n")
    subprocess.run(
        ["bash", "-c", written], env={"PATH": "/usr/bin:/bin", "SET_ENV": str(tmp_path / "set_env.sh")}, check=True
    )
    command = [str(tmp_path / "with-cann"), "printenv", "FROM_CANN", "LD_LIBRARY_PATH"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "yes"
    assert second.startswith("/usr/local/Ascend/driver/lib64:")


def test_the_container_gets_the_devices_that_doctor_asks_for() -> None:
    text = (FOLDER / "container.sh").read_text(encoding="utf-8")
    assert all(f"/dev/{name}" in text for name in (*MANAGERS, "davinci[0-9]*"))


class TestSlurm:
    def test_it_asks_for_the_machines_of_its_recipe(self) -> None:
        text = (FOLDER / "slurm.sh").read_text(encoding="utf-8")
        recipe = load_recipe(re.search(r"RECIPE:-(\S+)\}", text)[1])  # type: ignore[index]
        nodes = int(re.search(r"--nodes=(\d+)", text)[1])  # type: ignore[index]
        assert nodes == recipe.launch.nodes
        assert "--ntasks-per-node=1" in text

    def test_qvl_finds_its_place_there(self) -> None:
        slurm = {"SLURM_NODEID": "1", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "npu[07-08]"}
        place = find_place(nodes=2, master="localhost:29501", node_rank=None, environment=slurm)
        assert (place.node, place.master) == (1, "npu07:29501")


class TestKubernetes:
    @pytest.fixture
    def job(self) -> Any:
        yaml = pytest.importorskip("yaml", reason="the example is read with PyYAML, which transformers brings")
        return yaml.safe_load((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))

    def test_it_asks_for_the_machines_and_devices_of_its_recipe(self, job: Any) -> None:
        (task,) = job["spec"]["tasks"]
        (container,) = task["template"]["spec"]["containers"]
        recipe = load_recipe(next(word for word in container["args"] if word.endswith(".toml")))
        assert job["spec"]["minAvailable"] == task["replicas"] == recipe.launch.nodes
        resources = container["resources"]
        assert resources["limits"] == resources["requests"] == {"huawei.com/Ascend910": 8}
        assert recipe.parallel.world_size == 8 * recipe.launch.nodes

    def test_the_machines_meet_at_the_first_pod(self, job: Any) -> None:
        (task,) = job["spec"]["tasks"]
        (container,) = task["template"]["spec"]["containers"]
        name = job["metadata"]["name"]
        assert container["args"][-1] == f"launch.master={name}-{task['name']}-0.{name}:29501"
        place = find_place(nodes=2, master="qvl-node-0.qvl:29501", node_rank=None, environment={"VC_TASK_INDEX": "1"})
        assert (place.node, place.master) == (1, "qvl-node-0.qvl:29501")

    def test_only_a_run_that_broke_is_tried_again(self, job: Any) -> None:
        actions = {x["exitCode"]: x["action"] for x in job["spec"]["policies"] if "exitCode" in x}
        assert actions == {1: "RestartJob", 2: "AbortJob", 3: "AbortJob"}

    def test_every_mount_has_its_volume(self, job: Any) -> None:
        spec = job["spec"]["tasks"][0]["template"]["spec"]
        mounts = {x["name"] for x in spec["containers"][0]["volumeMounts"]}
        assert mounts == {x["name"] for x in spec["volumes"]}
