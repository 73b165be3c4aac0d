"""CANN's checks on made-up folders: sourced or not, its operators, its pair of MindSpore and driver."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cann_folders import cann_folder
from qvl_core.cli.doctor import ascend, cann


def test_a_cann_that_is_there_and_was_not_sourced(tmp_path: Path) -> None:
    script = tmp_path / "Ascend" / "ascend-toolkit" / "set_env.sh"
    script.parent.mkdir(parents=True)
    script.write_text("export ASCEND_HOME_PATH=...")
    environment = {"PATH": "", "HOME": str(tmp_path)}
    assert ascend.ascend_wanted(environment, tmp_path)
    row = cann.check_cann(environment)
    assert (row.level, row.fix.startswith(f"source {script}")) == ("fail", True)


def test_operators_of_another_version_than_the_toolkit(tmp_path: Path) -> None:
    environment = cann_folder(tmp_path / "cann", "8.5.0")
    file = tmp_path / "cann" / "x86_64-linux" / "ascend_ops_install.info"
    file.write_text("version=8.3.RC1\n")
    row = cann.check_operators(environment)
    assert (row.level, "8.5.0 and operators (opp) 8.3.RC1" in row.evidence) == ("fail", True)
    file.write_text("version=8.5.0\n")
    assert cann.check_operators(environment).level == "ok"


@pytest.mark.parametrize(
    ("toolkit", "operators", "level"),
    [
        # What opp/version.info says beside a toolkit of that release, as users and other projects show it.
        ("8.2.RC1", "Version=8.2.0.0.201\nversion_dir=8.2.RC1\n", "ok"),
        ("8.5.0", "Version=8.5.0.2.220\nversion_dir=8.5.0\n", "ok"),
        ("8.0.0", "Version=7.6.0.1.220\nversion_dir=8.0.0\nops_version=7.6.0.1.220\n", "ok"),
        ("8.0.0", "Version=7.6.0.1.220\n", "ok"),
        ("9.2.0", "Version=9.2.0-beta.2\nversion_dir=cann\n", "ok"),
        ("8.5.0", "Version=8.5.T8.0.B060\nversion_dir=8.5.0.alpha002\n", "ok"),
        ("8.3.RC1", "Version=8.3.0.1.100\nversion_dir=8.3.RC2\n", "fail"),
        ("8.3.RC1", "Version=8.2.0.0.201\nversion_dir=8.2.RC1\n", "fail"),
        ("8.5.1", "Version=8.5.0.2.220\nversion_dir=8.5.0\n", "fail"),
    ],
)
def test_operators_state_the_build_of_a_part_beside_their_release(
    tmp_path: Path, toolkit: str, operators: str, level: str
) -> None:
    environment = cann_folder(tmp_path / "cann", toolkit)
    (tmp_path / "cann" / "x86_64-linux" / "ascend_ops_install.info").unlink()
    (tmp_path / "cann" / "opp" / "version.info").write_text(operators)
    assert cann.check_operators(environment).level == level


def test_from_8_5_on_a_folder_opp_alone_proves_no_operators(tmp_path: Path) -> None:
    old = cann_folder(tmp_path / "old", "8.3.RC1")
    new = cann_folder(tmp_path / "cann-8.5.0", "8.5.0")
    for folder in ("old", "cann-8.5.0"):
        (tmp_path / folder / "x86_64-linux" / "ascend_ops_install.info").unlink()
    assert cann.check_operators(old).level == "ok"
    row = cann.check_operators(new, "910B3")
    assert (row.level, row.fix) == ("warn", "install the CANN ops package for your chip, version 8.5.0")
    (tmp_path / "cann-8.5.0" / "opp" / cann.KERNELS / "ascend910b").mkdir(parents=True)
    assert cann.check_operators(new, "910B3").level == "ok"


@pytest.mark.parametrize("place", ["cann", "cann-8.5.0", "ascend-toolkit", "latest"])
@pytest.mark.parametrize("variable", ["HOME", "CONDA_PREFIX"])
def test_where_the_script_of_cann_lies(tmp_path: Path, place: str, variable: str) -> None:
    script = tmp_path / "Ascend" / place / "set_env.sh"
    script.parent.mkdir(parents=True)
    script.touch()
    assert cann.set_env_script({variable: str(tmp_path)}, ()) == str(script)


def test_the_newest_of_several_canns_is_named(tmp_path: Path) -> None:
    for version in ("8.5.0", "9.0.0", "8.5.1"):
        (tmp_path / f"cann-{version}").mkdir()
        (tmp_path / f"cann-{version}" / "set_env.sh").touch()
    assert cann.set_env_script({}, (tmp_path,)) == str(tmp_path / "cann-9.0.0" / "set_env.sh")


@pytest.mark.parametrize(
    ("chip", "folder"),
    [
        ("910B3", "ascend910b"),
        ("Ascend910B1", "ascend910b"),
        ("910_9391", "ascend910_93"),
        ("310P3", "ascend310p"),
        ("910ProB", "ascend910"),
        ("Ascend910", ""),
        ("910_9589", "ascend910_95"),
        ("910_9712", ""),
        ("950", ""),
        ("", ""),
    ],
)
def test_where_the_operators_of_a_chip_lie(chip: str, folder: str) -> None:
    assert cann.folder_of(chip) == folder


def test_operators_beside_a_toolkit_whose_version_cannot_be_read(tmp_path: Path) -> None:
    environment = cann_folder(tmp_path / "cann", "8.2.RC1")
    for name in ("toolkit", "ops"):
        (tmp_path / "cann" / "x86_64-linux" / f"ascend_{name}_install.info").unlink()
    (tmp_path / "cann" / "opp" / "version.info").write_text("Version=8.2.RC1\n")
    assert cann.check_operators(environment).level == "ok"
    (tmp_path / "cann" / "opp" / "version.info").unlink()
    (tmp_path / "cann" / "opp").rmdir()
    assert cann.check_operators(environment).fix.endswith("for your chip, of the toolkit's version")


def test_operators_of_another_chip(tmp_path: Path) -> None:
    environment = cann_folder(tmp_path / "cann", "8.5.0")
    assert cann.check_operators(environment, "910B3").level == "ok"
    (tmp_path / "cann" / "opp" / cann.KERNELS / "ascend310p").mkdir(parents=True)
    row = cann.check_operators(environment, "910B3")
    assert (row.level, row.evidence.endswith("this chip is 910B3, whose are ascend910b")) == ("warn", True)
    assert cann.check_operators(environment, "950").level == "ok"
    (tmp_path / "cann" / "opp" / cann.KERNELS / "config" / "ascend910b").mkdir(parents=True)
    assert cann.check_operators(environment, "910B3").level == "ok"


def test_a_cann_of_which_only_the_folder_is_known_was_not_sourced(tmp_path: Path) -> None:
    environment = cann_folder(tmp_path / "cann", "8.5.0")
    (tmp_path / "latest").symlink_to(tmp_path / "cann")
    assert cann.check_cann(environment).level == "ok"
    # The variables may name the link or where it leads.
    assert cann.check_cann({**environment, "ASCEND_HOME_PATH": str(tmp_path / "latest")}).level == "ok"
    for libraries in ("", "/usr/lib", f"{tmp_path}/cann-8.2/lib64"):
        row = cann.check_cann({**environment, "LD_LIBRARY_PATH": libraries})
        assert (row.level, "none of it in LD_LIBRARY_PATH" in row.evidence) == ("warn", True)
        assert row.fix.startswith("source set_env.sh of this CANN, which sets")


@pytest.mark.parametrize("place", ["ascend-toolkit/latest", "ascend-toolkit", "with blank"])
def test_only_a_script_that_is_there_is_proposed(tmp_path: Path, place: str) -> None:
    home = tmp_path / (f"{place}/latest" if place == "with blank" else "ascend-toolkit/latest")
    environment = {**cann_folder(home, "8.2.RC1"), "LD_LIBRARY_PATH": "/usr/lib"}
    script = tmp_path / place / "set_env.sh"
    assert "set_env.sh of this CANN" in cann.check_cann(environment).fix
    script.touch()
    row = cann.check_cann(environment)
    words = shlex.split(row.fix.partition(", which")[0])
    assert (row.level, words) == ("warn", ["source", str(script)])
    assert Path(words[1]).is_file()


def _linked(toolkit: Path) -> Path:
    """Lay `latest` out as CANN 8.2 does: a folder of links to each part of the version's; give it."""
    version, latest = toolkit / "8.2.RC1", toolkit / "latest"
    cann_folder(version, "8.2.RC1")
    latest.mkdir()
    for name in ("lib64", "runtime/lib64", "compiler", "tools"):
        (version / name).mkdir(parents=True)
    (version / "lib64" / "libascendcl.so").touch()
    for name in ("lib64", "runtime", "compiler", "tools", "opp", "x86_64-linux"):
        (latest / name).symlink_to(Path("..") / "8.2.RC1" / name)
    return latest


def test_a_sourced_shell_whose_latest_is_a_folder_of_links_is_fine(tmp_path: Path) -> None:
    latest = _linked(tmp_path)
    sourced = {
        "ASCEND_HOME_PATH": str(latest),
        "LD_LIBRARY_PATH": f"{latest}/lib64:{latest}/lib64/plugin:{latest}/tools",
    }
    assert cann.check_cann(sourced).level == "ok"
    # The one variable names the folder of links, the other the version's; either may.
    for one, other in ((latest, tmp_path / "8.2.RC1"), (tmp_path / "8.2.RC1", latest)):
        for part in ("lib64", "runtime/lib64", "tools"):
            row = cann.check_cann({"ASCEND_HOME_PATH": str(one), "LD_LIBRARY_PATH": f"/usr/lib:{other}/{part}/"})
            assert row.level == "ok"


def test_libraries_beside_the_folder_are_its_own_unless_they_state_another_version(tmp_path: Path) -> None:
    home, other = tmp_path / "toolkit", tmp_path / "all-libraries"
    environment = {**cann_folder(home, "8.5.0"), "LD_LIBRARY_PATH": str(other / "lib64")}
    (other / "lib64").mkdir(parents=True)
    assert cann.check_cann(environment).level == "warn"
    (other / "lib64" / "libge_runner.so").touch()
    assert cann.check_cann(environment).level == "ok"
    cann_folder(other, "8.3.RC1")
    assert cann.check_cann(environment).level == "warn"
    # Its name begins as the folder's; where it leads does not.
    assert cann.check_cann({**environment, "LD_LIBRARY_PATH": f"{home}/../all-libraries/lib64"}).level == "warn"


def test_where_no_cann_is_the_fix_is_to_install_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cann, "ROOTS", (tmp_path,))
    row = cann.check_cann({"HOME": str(tmp_path)})
    assert row.fix.startswith("install the CANN that pairs with your MindSpore")


def test_operators_are_not_looked_for_without_a_toolkit() -> None:
    assert cann.check_operators({}).level == "skipped"


def test_cann(tmp_path: Path) -> None:
    assert "set_env.sh" in cann.check_cann({}).fix
    assert "does not exist" in cann.check_cann({"ASCEND_HOME_PATH": str(tmp_path / "none")}).evidence
    half = cann.check_operators(cann_folder(tmp_path / "half", "8.5.0", ops=False))
    assert half.level == "fail"
    assert "ops package for your chip, version 8.5.0" in half.fix
    whole = cann.check_cann(cann_folder(tmp_path / "whole", "8.5.0"))
    assert (whole.level, whole.evidence.split(" in ")[0]) == ("ok", "CANN 8.5.0")


@pytest.mark.parametrize(
    ("mindspore", "version", "level"),
    [
        ("2.7.2", "8.5.0", "ok"),
        ("2.7.1.post1", "8.3.RC1", "ok"),
        ("2.7.2", "8.5.1", "warn"),
        ("2.7.2", "8.3.RC1", "fail"),
        ("2.10.0", "9.1.0", "warn"),
        ("2.10.0", "8.2.RC1", "warn"),
        ("2.10.0", "8.1.RC1", "fail"),
        ("2.8.0", "7.0.1", "fail"),
    ],
)
def test_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mindspore: str, version: str, level: str) -> None:
    monkeypatch.setattr(cann, "installed_version", lambda name: mindspore)
    row = cann.check_pair(cann_folder(tmp_path / "cann", version), "25.5.0")
    assert row.level == level
    assert f"MindSpore {mindspore}, CANN {version}, driver 25.5.0" in row.evidence


def test_a_pair_that_is_not_in_the_table_is_told_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cann, "installed_version", lambda name: "2.10.0")
    row = cann.check_pair(cann_folder(tmp_path / "cann", "9.9.9"), "")
    assert "2.7.0 with CANN 8.2.RC1" in row.fix
    assert "2.9.0 with CANN 9.0.0" in row.fix


def test_an_old_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cann, "installed_version", lambda name: "2.7.2")
    row = cann.check_pair(cann_folder(tmp_path / "cann", "8.5.0"), "25.2.0")
    assert (row.level, row.fix) == ("warn", "update driver and firmware to 25.5.0")
