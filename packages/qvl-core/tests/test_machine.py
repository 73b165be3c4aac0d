"""What is recorded of the machine that a run is computed on, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.machine import cann_version, machine_facts, result_variables


def test_names_the_machine_and_nothing_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    found = machine_facts(tmp_path / "none", tmp_path / "no.info")
    assert {"host", "cores", "directory"} <= found.keys()
    assert not {"npus", "cann", "driver"} & found.keys()
    assert int(found["cores"]) >= 1
    assert found["directory"] == str(Path.cwd())


def test_names_npus_toolkit_and_driver_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("davinci0", "davinci1", "davinci_manager"):
        (tmp_path / name).touch()
    info = tmp_path / "cann" / "x86_64-linux" / "ascend_toolkit_install.info"
    info.parent.mkdir(parents=True)
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.2.RC1\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    driver = tmp_path / "version.info"
    driver.write_text("Version=25.2.0\nascendhal_version=7.35\n")
    found = machine_facts(tmp_path, driver)
    assert (found["npus"], found["cann"], found["driver"]) == ("2", "8.2.RC1", "25.2.0")
    assert cann_version(tmp_path / "nothing") == ""


@pytest.mark.parametrize(
    ("path", "text", "version"),
    [
        # As users and other projects show them; the first number is that of a part, or of the file.
        ("version.cfg", "# version: 1.0\nruntime_running_version=[7.6.0.1.220:8.0.0]\n", "8.0.0"),
        ("version.cfg", "# version: 1.0\ntoolkit_running_version=[7.5.0.1.129:8.0.RC3]\n", "8.0.RC3"),
        ("opp/version.info", "", ""),
        ("toolkit/version.info", "Version=8.2.0.0.201\nversion_dir=8.2.RC1\ntimestamp=20250724_194044950\n", "8.2.RC1"),
        ("compiler/version.info", "Version=9.2.0-beta.2\nversion_dir=cann\n", "9.2.0"),
        ("aarch64-linux/ascend_toolkit_install.info", "package_name=x\nversion=8.3.RC2\ninnerversion=V1\n", "8.3.RC2"),
        ("share/info/ascend_toolkit_install.info", "version=9.0.0\n", "9.0.0"),
    ],
)
def test_a_folder_of_cann_states_its_release(tmp_path: Path, path: str, text: str, version: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert cann_version(tmp_path) == version


@pytest.mark.parametrize(("name", "version"), [("cann-8.5.0", "8.5.0"), ("8.2.RC1", "8.2.RC1"), ("cann", "")])
def test_a_folder_of_cann_without_files_is_known_by_its_name(tmp_path: Path, name: str, version: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / name)
    assert cann_version(tmp_path / "latest") == version


def test_variables_are_those_that_can_change_a_result_and_no_secret() -> None:
    shell = {
        "HCCL_DETERMINISTIC": "true",
        "MS_ALLOC_CONF": "x" * 1000,
        "OMP_NUM_THREADS": "2",
        "QVL_KERNELS": "plain",
        "HOME": "/root",
        "HUB_TOKEN": "t",
        "MS_ACCESS_TOKEN": "t",
        "ASCEND_API_KEY": "t",
        "MS_ROLE": "MS_WORKER",
    }
    found = result_variables(environment=shell)
    assert list(found) == ["HCCL_DETERMINISTIC", "MS_ALLOC_CONF", "OMP_NUM_THREADS", "QVL_KERNELS"]
    assert len(found["MS_ALLOC_CONF"]) <= 300


def test_what_a_recipe_states_and_what_qvl_sets_itself_are_no_facts_of_the_shell() -> None:
    shell = {"HCCL_BUFFSIZE": "300", "MS_ALLOC_CONF": "a", "MS_DEV_HOST_BLOCKING_RUN": "1"}
    assert result_variables({"HCCL_BUFFSIZE"}, shell) == {"MS_ALLOC_CONF": "a"}
    # Another value than qvl's own is a person's.
    assert result_variables((), {"MS_DEV_HOST_BLOCKING_RUN": "0"}) == {"MS_DEV_HOST_BLOCKING_RUN": "0"}
