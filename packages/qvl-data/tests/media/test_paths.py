"""Media paths lead under media_root or are refused; nothing is opened to find out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from qvl_data.media import paths
from qvl_data.media.paths import MediaPathError, MediaRoot, resolve_media_path


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("../../x.png", "`..` part"),
        ("a/../../x.png", "`..` part"),
        ("/etc/passwd", "absolute path out of media_root"),
        ("file:///etc/passwd", "URL"),
        ("file:x.png", "URL"),
        ("http://host/x.png", "URL"),
        ("data:image/png;base64,AAAA", "URL"),
        ("~/x.png", "starts with ~"),
        ("$HOME/x.png", "starts with ~ or \\$"),
        ("C:\\x.png", "drive letter"),
        ("c:x.png", "drive letter"),
        ("a\\..\\x.png", "backslash"),
        ("a\0b.png", "NUL"),
    ],
)
def test_refuses_paths_that_lead_elsewhere(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(MediaPathError, match=message):
        resolve_media_path(written, tmp_path)


@pytest.mark.parametrize(
    "written", ["a.png", "sub/a b.png", "图 😀.png", "a..b.png", "./a.png", "new\nline.png", "12:30.png"]
)
def test_accepts_paths_under_the_root(tmp_path: Path, written: str) -> None:
    assert resolve_media_path(written, tmp_path) == (tmp_path / written).resolve()


def test_accepts_an_absolute_path_inside_the_root_and_refuses_a_sibling_with_its_prefix(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert resolve_media_path(str(root / "a.png"), root) == (root / "a.png").resolve()
    with pytest.raises(MediaPathError):
        resolve_media_path(str(tmp_path / "rootless" / "a.png"), root)


def test_refuses_a_link_out_of_the_root_and_accepts_one_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "sub" / "up").symlink_to(tmp_path)
    (root / "in.png").symlink_to(root / "sub" / "real.png")
    for written in ("out.png", "sub/up/secret.png"):
        with pytest.raises(MediaPathError, match="symbolic link"):
            resolve_media_path(written, root)
    assert resolve_media_path("in.png", root) == (root / "sub" / "real.png").resolve()


def test_accepts_a_root_that_is_itself_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert resolve_media_path("a.png", tmp_path / "root") == (tmp_path / "real" / "a.png").resolve()


@pytest.mark.parametrize("written", ["../x.png", "a/../../x.png"])
def test_opened_up_it_follows_what_leads_outside(tmp_path: Path, written: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "x.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "x.png")
    outside = (tmp_path / "x.png").resolve()
    for each in (written, str(tmp_path / "x.png"), "link.png"):
        assert resolve_media_path(each, root, allow_outside=True) == outside
        with pytest.raises(MediaPathError):
            resolve_media_path(each, root)


@pytest.mark.parametrize("written", ["file:///x.png", "http://host/x.png", "~/x.png", "$HOME/x.png", "C:\\x", "a\0"])
def test_opened_up_it_still_refuses_what_is_no_path(tmp_path: Path, written: str) -> None:
    with pytest.raises(MediaPathError):
        resolve_media_path(written, tmp_path, allow_outside=True)


def test_a_link_that_replaces_a_file_later_is_noticed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(b"x")
    kept = MediaRoot(root)
    assert kept.resolve("a.png") == (root / "a.png").resolve()
    (root / "a.png").unlink()
    (root / "a.png").symlink_to(tmp_path / "secret")
    with pytest.raises(MediaPathError, match="symbolic link"):
        kept.resolve("a.png")


def test_many_folders_are_looked_at_once_each_and_not_all_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = os.path.realpath
    root = MediaRoot(tmp_path)
    monkeypatch.setattr(os.path, "realpath", lambda path, **_: calls.append(path) or real(path))
    monkeypatch.setattr(paths, "_REMEMBERED", 2)
    for folder in "aabbaaccba":
        root.resolve(f"{folder}/x.png")
    # a, b, (full) c, b, (full) a: never more than two are kept.
    assert len(calls) == 5
    assert len(root._folders) <= 2


def test_a_root_that_is_the_whole_disk_holds_everything() -> None:
    assert MediaRoot(Path("/")).resolve("no/such/x.png") == Path("/no/such/x.png")


def test_a_message_stays_short(tmp_path: Path) -> None:
    with pytest.raises(MediaPathError) as caught:
        resolve_media_path("../" * 100_000, tmp_path)
    assert len(str(caught.value)) < 400
    with pytest.raises(MediaPathError, match="cannot be resolved"):
        resolve_media_path("x" * 100_000, tmp_path)
