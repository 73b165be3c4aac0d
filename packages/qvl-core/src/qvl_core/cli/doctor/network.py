"""Ports and host names: where the processes of a run meet, and where HCCL listens."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from qvl_core.cli.doctor.row import Row

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

_DEFAULT_MASTER = "localhost:29501"
_PROC = Path("/proc/sys/net/ipv4")
# linux/sockios.h
_SIOCGIFADDR = 0x8915


def check_master_port(recipe: Recipe | None, free: Callable[[int], bool] | None = None, *, folder: Path = _PROC) -> Row:
    """Check that the port where processes meet is free here and stays so; the default's, or the recipe's."""
    from qvl_core.launch import ports

    free = free or ports.is_free
    master = recipe.launch.master if recipe else _DEFAULT_MASTER
    host, _, text = master.rpartition(":")
    port = int(text)
    if free(port):
        first, last = _numbers(folder / "ip_local_port_range")
        if not first <= port <= last or _reserved(folder, range(port, port + 1)):
            return Row(check="master-port", level="ok", evidence=f"port {port} is free")
        evidence = f"port {port} is free, and in the range for outgoing connections, {first} to {last}: one may take it"
        usual = _DEFAULT_MASTER.rpartition(":")[2]
        fix = f"--set launch.master={host}:{usual}, or sysctl -w net.ipv4.ip_local_reserved_ports={port}"
        return Row(check="master-port", level="warn", evidence=evidence, fix=fix)
    owner = ports.owner_of(port) or "a process that this user may not see"
    fix = f"--set launch.master={host}:{ports.free_port()}, a port that is free now"
    evidence = f"port {port} is taken by {owner}"
    return Row(check="master-port", level="fail" if recipe else "warn", evidence=evidence, fix=fix)


def check_hccl_ports(
    recipe: Recipe | None,
    environment: Mapping[str, str],
    *,
    folder: Path = _PROC,
    free: Callable[[int], bool] | None = None,
) -> Row:
    """Check that HCCL's 16 ports are free, and that the system does not give them to outgoing connections."""
    from qvl_core.launch import ports
    from qvl_core.recipe.environment_checks import HCCL_BASE, HCCL_PORTS

    free = free or ports.is_free
    stated = recipe.env.variables() if recipe else {}
    stated = {**environment, **stated}
    if stated.get("HCCL_HOST_SOCKET_PORT_RANGE"):
        evidence = f"HCCL_HOST_SOCKET_PORT_RANGE is {stated['HCCL_HOST_SOCKET_PORT_RANGE'][:60]}"
        return Row(check="hccl-ports", level="ok", evidence=evidence)
    text = stated.get("HCCL_IF_BASE_PORT", "")
    base = int(text) if re.fullmatch(r"\d{1,5}", text) and int(text) <= 65520 else HCCL_BASE
    wanted = range(base, base + HCCL_PORTS)
    taken = [port for port in wanted if not free(port)]
    named = f"{base} to {base + HCCL_PORTS - 1}"
    if taken:
        starts = range(61000, 65500, 100)
        other = next((first for first in starts if all(map(free, range(first, first + HCCL_PORTS)))), starts[0])
        evidence = f"of HCCL's ports {named}, {', '.join(map(str, taken))} taken"
        return Row(check="hccl-ports", level="warn", evidence=evidence, fix=f"[env] HCCL_IF_BASE_PORT = {other}")
    first, last = _numbers(folder / "ip_local_port_range")
    if not (first and base <= last and first <= base + HCCL_PORTS - 1) or _reserved(folder, wanted):
        return Row(check="hccl-ports", level="ok", evidence=f"{named} are free")
    evidence = f"{named} lie in the range for outgoing connections, {first} to {last}: one may take them"
    fix = f"sysctl -w net.ipv4.ip_local_reserved_ports={base}-{base + HCCL_PORTS - 1}"
    return Row(check="hccl-ports", level="warn", evidence=evidence, fix=fix)


def check_host_names(
    recipe: Recipe | None,
    resolve: Callable[[str], list[str]] | None = None,
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    addresses: Callable[[], Mapping[str, str]] | None = None,
) -> Row:
    """Check that the meeting point has an IPv4 address, which msrun needs; no packet leaves for a local name.

    Where it is this machine, the address has to be that of the interface that HCCL is told to use.
    """
    host = (recipe.launch.master if recipe else _DEFAULT_MASTER).rpartition(":")[0]
    nodes = recipe.launch.nodes if recipe else 1
    try:
        found = (resolve or _resolve)(host)
    except OSError as error:
        fix = f"write the IPv4 address of the first machine, or add {host} to /etc/hosts on all"
        return Row(check="host-names", level="fail", evidence=f"{host} cannot be resolved: {error.strerror}", fix=fix)
    four = [address for address in found if re.fullmatch(r"[\d.]+", address)]
    if not four:
        evidence = f"{host} has IPv6 addresses only ({', '.join(found)}); msrun knows none"
        return Row(check="host-names", level="fail", evidence=evidence, fix="write the machine's IPv4 address")
    if nodes > 1 and all(address.startswith("127.") for address in four):
        evidence = f"{host} is {four[0]} here: the other {nodes - 1} machines cannot reach that"
        fix = f"--set launch.master=ADDRESS:{(recipe.launch.master if recipe else '').rpartition(':')[2]}"
        return Row(check="host-names", level="warn", evidence=evidence, fix=fix)
    stated = (recipe.env.HCCL_SOCKET_IFNAME if recipe else None) or environment.get("HCCL_SOCKET_IFNAME", "")
    if nodes > 1 and stated and not stated.startswith("^"):
        own = (addresses or _own_addresses)()
        wanted = [name.strip() for name in stated.removeprefix("=").split(",")]
        of_these = [address for name, address in own.items() if any(part and name.startswith(part) for part in wanted)]
        if of_these and four[0] in own.values() and four[0] not in of_these:
            evidence = f"{host} is {four[0]}, and HCCL_SOCKET_IFNAME = {stated[:60]} has {', '.join(of_these)}"
            port = (recipe.launch.master if recipe else _DEFAULT_MASTER).rpartition(":")[2]
            fix = f"--set launch.master={of_these[0]}:{port}"
            return Row(check="host-names", level="warn", evidence=evidence, fix=fix)
    return Row(check="host-names", level="ok", evidence=f"{host} is {four[0]}")


def _own_addresses() -> dict[str, str]:
    """Give the IPv4 address of each network interface that has one; the kernel is asked, no packet leaves."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                # struct ifreq: 16 bytes of name, then a struct sockaddr_in with the address in bytes 4 to 7.
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _resolve(host: str) -> list[str]:
    return list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None)))


def _numbers(path: Path) -> tuple[int, int]:
    try:
        words = path.read_text(encoding="ascii").split()
        return int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):
        return 0, 0


def _reserved(folder: Path, wanted: range) -> bool:
    try:
        text = (folder / "ip_local_reserved_ports").read_text(encoding="ascii").strip()
    except OSError:
        return False
    held: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            held.update(range(int(first), int(last or first) + 1))
    return set(wanted) <= held
