"""File systems as the kernel lists them, and what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.cli.doctor import disks
from qvl_core.recipe import load_recipe

TABLE = """\
22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/a
23 22 0:21 / {root}/shared rw - lustre 10.0.0.1@tcp:/scratch rw,flock
24 22 0:22 / {root}/with\\040blank rw - nfs4 server:/x rw,local_lock=none
25 22 0:23 / {root}/nolock rw,nolock - nfs server:/y rw
26 22 0:24 / {root}/obs rw - fuse.s3fs s3fs rw
27 22 0:25 / {root}/covered rw - ext4 /dev/a rw
28 22 0:26 / {root}/covered rw shared:3 - lustre x rw
half a line
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(root=tmp_path))
    return table


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("x", "overlay"),
        ("shared", "lustre"),
        ("shared/not/there/yet", "lustre"),
        ("shared2", "overlay"),
        ("with blank/x", "nfs4"),
        ("covered", "lustre"),
    ],
)
def test_the_mount_of_a_path(tmp_path: Path, mounts: Path, path: str, kind: str) -> None:
    found = disks.mount_of(tmp_path / path, mounts)
    assert found is not None
    assert found.kind == kind


def test_links_are_followed(tmp_path: Path, mounts: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    found = disks.mount_of(tmp_path / "link" / "x", mounts)
    assert found is not None
    assert not found.is_local


@pytest.mark.parametrize(
    ("path", "said"),
    [("shared", ""), ("with blank", ""), ("nolock", "without locks"), ("obs", "object store"), ("x", "")],
)
def test_what_is_not_promised(tmp_path: Path, mounts: Path, path: str, said: str) -> None:
    broken = disks.promises_broken(tmp_path / path, mounts)
    assert (said in broken, bool(broken)) == (True, bool(said))


def test_a_kernel_that_does_not_say(tmp_path: Path, folder: Path) -> None:
    nowhere = tmp_path / "none"
    assert disks.mount_of(tmp_path, nowhere) is None
    assert disks.promises_broken(tmp_path, nowhere) == ""
    assert disks.check_shared_folders(load_recipe("72b.toml"), nowhere).level == "skipped"
    assert disks.mount_of(Path("/")) is not None


def test_data_and_weights_on_a_local_disk_may_be_copies(folder: Path, mounts: Path) -> None:
    recipe = load_recipe("72b.toml", [f"output.dir={str(mounts.parent / 'shared')!r}"])
    row = disks.check_shared_folders(recipe, mounts)
    assert (row.level, row.fix.startswith("put them on")) == ("warn", True)
    assert "output.dir" not in row.evidence
