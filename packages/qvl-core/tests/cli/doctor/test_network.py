"""Ports and host names, on made-up port tables and resolvers."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.cli.doctor import network
from qvl_core.recipe import load_recipe


def everything(port: int) -> bool:
    return True


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "ipv4"
    folder.mkdir()
    (folder / "ip_local_port_range").write_text("32768\t60999\n")
    (folder / "ip_local_reserved_ports").write_text("\n")
    return folder


def test_the_meeting_port(folder: Path) -> None:
    assert network.check_master_port(None, everything).level == "ok"
    row = network.check_master_port(None, lambda port: port != 29501)
    assert row.level == "warn"
    assert "launch.master=localhost:" in row.fix
    taken = network.check_master_port(load_recipe("72b.toml"), lambda port: port != 29501)
    assert (taken.level, "launch.master=10.0.0.1:" in taken.fix) == ("fail", True)


def test_hccl_ports_in_the_range_of_outgoing_connections_are_told(proc: Path) -> None:
    row = network.check_hccl_ports(None, {}, folder=proc, free=everything)
    assert (row.level, row.fix) == ("warn", "sysctl -w net.ipv4.ip_local_reserved_ports=60000-60015")
    (proc / "ip_local_reserved_ports").write_text("1-5,60000-60020\n")
    assert network.check_hccl_ports(None, {}, folder=proc, free=everything).level == "ok"


@pytest.mark.parametrize("base", ["61000", "20000"])
def test_hccl_ports_outside_of_it_are_fine(proc: Path, base: str) -> None:
    assert network.check_hccl_ports(None, {"HCCL_IF_BASE_PORT": base}, folder=proc, free=everything).level == "ok"


def test_taken_hccl_ports_get_a_free_range(proc: Path) -> None:
    row = network.check_hccl_ports(None, {}, folder=proc, free=lambda port: port not in (60003, 61005))
    assert (row.level, "60003" in row.evidence) == ("warn", True)
    assert row.fix == "[env] HCCL_IF_BASE_PORT = 61100"


def test_a_range_of_its_own_wins(proc: Path) -> None:
    environment = {"HCCL_HOST_SOCKET_PORT_RANGE": "auto"}
    assert network.check_hccl_ports(None, environment, folder=proc, free=lambda port: False).level == "ok"


def test_host_names(folder: Path) -> None:
    def unknown(host: str) -> list[str]:
        raise OSError(-2, "Name or service not known")

    recipe = load_recipe("72b.toml")
    assert network.check_host_names(None, lambda host: ["::1", "127.0.0.1"]).level == "ok"
    assert "IPv6 addresses only" in network.check_host_names(recipe, lambda host: ["fe80::1"]).evidence
    assert network.check_host_names(recipe, unknown).level == "fail"
    local = network.check_host_names(recipe, lambda host: ["127.0.1.1"])
    assert (local.level, "7 machines cannot reach" in local.evidence) == ("warn", True)
    assert network.check_host_names(recipe, lambda host: ["10.0.0.1"]).level == "ok"


def test_the_addresses_of_this_machine_are_read_from_the_kernel() -> None:
    assert network._own_addresses().get("lo", "127.0.0.1") == "127.0.0.1"


def test_a_reserved_meeting_port_is_nobodys(proc: Path, folder: Path) -> None:
    recipe = load_recipe("72b.toml", ["launch.master='10.0.0.1:40000'"])
    row = network.check_master_port(recipe, lambda _: True, folder=proc)
    assert (row.level, "ip_local_reserved_ports=40000" in row.fix) == ("warn", True)
    (proc / "ip_local_reserved_ports").write_text("39000,40000-40015\n")
    assert network.check_master_port(recipe, lambda _: True, folder=proc).level == "ok"
