"""The archive for issues: planted secrets are nowhere in it, and what helps is."""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.cli.doctor import bundle, examination
from qvl_core.cli.doctor.masking import Mask
from qvl_core.cli.doctor.row import Row
from qvl_core.errors import OutputError

# In two parts, as no file of ours names a folder of a machine.
HOMES, ROOT, MAC = "/ho" + "me", "/ro" + "ot", "/Us" + "ers"
# None of these is real. Joined here so that no scanner takes this file for a leak.
HUGGING = "hf_" + "AbCdEfGhIjKlMnOpQrStUv"
GITHUB = "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345"
AMAZON = "AKIA" + "ABCDEFGHIJKLMNOP"
UNKNOWN = "Zk3" + "aQ9xW2eR7tY1uI5oP8sD4fG6hJ0kL"
PLANTED = {
    "USER": "wang.xiaoming",
    "LOGNAME": "wang.xiaoming",
    "HOSTNAME": "train-node-17.lab.example.org",
    "HF_TOKEN": "plain-words-as-a-token",
    "MS_API_KEY": "another plain secret",
    "ASCEND_PROCESS_LOG_PATH": f"{HOMES}/wang.xiaoming/ascend/log",
    "HCCL_IF_IP": "10.20.30.40",
    "HCCL_SOCKET_IFNAME": "eth0",
    "HCCL_WHITELIST_FILE": f"https://wang:{UNKNOWN}@intranet/list?token={HUGGING}",
    "LD_LIBRARY_PATH": f"{HOMES}/li/lib:/usr/lib:{HOMES}/wang.xiaoming/cann/lib64",
    "PATH": f"/usr/bin:{HOMES}/wang.xiaoming/bin",
    "HOME": f"{HOMES}/wang.xiaoming",
    "PWD": "/usr/lib",
    "TOKENIZERS_PARALLELISM": "false",
    "AWS_SECRET_ACCESS_KEY": "never-shown-at-all",
}
SECRETS = (
    *("wang", "xiaoming", f"{HOMES}/li", "train-node-17", "lab.example.org", "plain-words-as-a-token", "plain secret"),
    *("10.20.30.40", HUGGING, GITHUB, AMAZON, UNKNOWN, "never-shown-at-all", "fe80::1ff:fe23:4567:890a"),
    *("52:54:00:12:34:56", "hunter2hunter2", "me@example.org", "192.168.7.9", "head-node-3"),
)


def _texts(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


@pytest.fixture
def rows() -> list[Row]:
    said = f"node train-node-17.lab.example.org (train-node-17), 192.168.7.9, fe80::1ff:fe23:4567:890a, {GITHUB}"
    fix = f'export PASSWORD="hunter2hunter2"; mail me@example.org; {AMAZON}; 52:54:00:12:34:56 \\"quoted\\"'
    return [
        Row(check="host", level="ok", evidence="train-node-17"),
        Row(check="one", level="warn", evidence=said, fix=fix),
        Row(check="master", level="ok", evidence="127.0.0.1 at 2026-11-27 10:14:59 UTC, device 0000:C1:00.0"),
    ]


def test_no_planted_secret_is_in_the_archive(folder: Path, rows: list[Row]) -> None:
    text = Path("72b.toml").read_text().replace("10.0.0.1:29501", "head-node-3:29501")
    Path("r.toml").write_text(
        text.replace("ckpt/72b", f"{HOMES}/li/{HUGGING}").replace("runs/72b", f"{HOMES}/wang.xiaoming/r")
    )
    names = bundle.write(folder / "d.zip", rows, PLANTED, "r.toml")
    texts = _texts(folder / "d.zip")
    assert list(texts) == names
    whole = "\n".join(texts.values())
    assert [secret for secret in SECRETS if secret in whole] == []
    assert "127.0.0.1 at 2026-11-27 10:14:59 UTC, device 0000:C1:00.0" in whole
    assert "HCCL_SOCKET_IFNAME=eth0" in texts["environment.txt"]
    assert "ASCEND_PROCESS_LOG_PATH=~/ascend/log" in texts["environment.txt"]
    assert "MS_API_KEY=<secret>" in texts["environment.txt"]
    assert f"LD_LIBRARY_PATH={HOMES}/<user>/lib:/usr/lib:~/cann/lib64" in texts["environment.txt"]
    assert "AWS_" not in texts["environment.txt"]
    assert "qvl-core==" in texts["packages.txt"]
    assert [row["check"] for row in json.loads(texts["doctor.json"])] == ["host", "one", "master"]
    recipe = json.loads(texts["recipe.json"])
    assert recipe["output"]["dir"] == "~/r"
    assert recipe["weights"]["source"] == f"{HOMES}/<user>/<token>"


def test_equal_names_stay_equal(folder: Path, rows: list[Row]) -> None:
    mask = bundle.mask_of(PLANTED, None)
    assert mask.text("10.0.0.1 and 10.0.0.2, 10.0.0.1") == "<address-1> and <address-2>, <address-1>"
    assert mask.text("train-node-17.lab.example.org") == mask.text("TRAIN-NODE-17.lab.example.org")


@pytest.mark.parametrize(
    "text",
    [
        "512 tokens a step, tokens_per_s 1024.5",
        "MindSpore 2.7.2, CANN 8.5.0, driver 25.5.0",
        "step 10:14:59, ratio 1:2:3",
        "GLIBCXX_3.4.26 in /usr/lib64/libstdc++.so.6",
        "token: the tokenizer is there",
        "digest 0123456789abcdef0123456789abcdef01234567",
        "--device=/dev/davinci0 --device=/dev/davinci_manager",
        "0.0.0.0:29501 localhost:29501 ::1",
        "std::vector::at recipes/7b_sft.toml:11: layout.text_stages",
    ],
)
def test_what_tells_nothing_about_anybody_stays(text: str) -> None:
    assert Mask({}, users=["a1", "root"], hosts=["localhost"], home=ROOT).text(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("curl -H 'Bearer abcdefghij123'", "curl -H 'Bearer <token>'"),
        (
            "process 7 (serve.py --auth-token plain --port 8000)",
            "process 7 (serve.py --auth-token <secret> --port 8000)",
        ),
        ("tag[AllReduce_192.168.0.116%eth0_60000]", "tag[AllReduce_<address-1>%eth0_60000]"),
        ("reached 10.0.0.1. Then", "reached <address-1>. Then"),
        ("--token abc123def", "--token <secret>"),
        ("Authorization: Bearer abcdefghij123", "Authorization: <secret> <token>"),
        ('api_key = "k1k2k3k4"', 'api_key = "<secret>"'),
        ("git clone https://u:p@host/x", "git clone https://<user>@host/x"),
        (f"{MAC}/lee/x and {HOMES}/lee/y", f"{MAC}/<user>/x and {HOMES}/<user>/y"),
        (f"{ROOT}/x", "~/x"),
        ("a1/data a1b", "<user>/data a1b"),
        ("2001:db8::7 fe80::1%eth0", "<address-1> <address-2>"),
        ("10.0.0.1:29501", "<address-1>:29501"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "<token>"),
    ],
)
def test_what_is_masked(text: str, masked: str) -> None:
    assert Mask({}, users=["a1"], home=ROOT).text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "| npu-smi 24.1.0.3               Version: 24.1.0.3                     |",
        "MindSpore 2.7.0.1, CANN 8.2.0.1, driver 24.1.0.3: they do not pair",
        "driver 24.1.0.3; 8 healthy device(s)",
        "CANN 8.2.0.1 in /usr/local/Ascend/cann-8.2.0.1",
        "toolkit 8.2.0.1 and operators (opp) 8.3.0.1 in /x are of two versions",
        "update driver and firmware to 25.5.0.1",
        "opencv-python==4.10.0.84\nnvidia-curand-cu12==10.3.5.147\n",
        "qvl-data needs opencv-python>=4.9.0.80,<5, found 4.10.0.84",
        "pip install 'opencv-python>=4.9.0.80'",
        "wheel-of-four 10.1.2.3",
        "Software Version : 24.1.0.3",
    ],
)
def test_versions_of_four_numbers_stay(text: str) -> None:
    assert Mask({}, versions={"Wheel-of-Four": "10.1.2.3"}).text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "HCCL_IF_IP=52.3.4.5",
        "ip==52.3.4.5:29501",
        "http://52.3.4.5/",
        "the Spark driver 52.3.4.5 does not answer",
        "driver 10.1.2.3; Version: 192.168.7.9; CANN 172.16.0.4",
        "wheel-of-four 10.1.2.4, wheel 10.1.2.3",
        "npu-smi: 52.3.4.5:8000 refused",
        "found 52.3.4.5",
        "ip.addr==10.1.2.3 && master_addr == 52.3.4.5",
        "driver 24.1.0.3:29501",
        "Version: 24.1.0.3\n52.3.4.5",
        "HCCL_WHITELIST_FILE=/a/52.3.4.5",
        "x==47.8.9.10, CANN 47.8.9.10, wheel-of-four 47.8.9.10",
    ],
)
def test_addresses_beside_versions_are_masked(text: str) -> None:
    known = {"MASTER_ADDR": "47.8.9.10"}
    masked = Mask(known, versions={"wheel-of-four": "10.1.2.3"}).text(text).replace("Version: 24.1.0.3", "")
    assert re.findall(r"\d+(?:\.\d+){3}", masked) == []


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
AROUND = st.sampled_from([" ", '"', "'", "(", "=", ": ", "\n", ",", "[", "@", "|"])


@settings(max_examples=200, deadline=None)
@given(
    before=TEXT, after=TEXT, left=AROUND, right=st.sampled_from([" ", '"', ")", "\n", ",", "]", ";"]),
    planted=st.sampled_from([HUGGING, GITHUB, AMAZON, "10.20.30.40", f"{HOMES}/wang.xiaoming/x", "train-node-17", *(
        PLANTED[name] for name in ("HF_TOKEN", "MS_API_KEY", "AWS_SECRET_ACCESS_KEY", "USER", "HOSTNAME")
    )]),
)  # fmt: skip
def test_a_secret_is_found_whatever_stands_around_it(before, after, left, right, planted: str) -> None:
    mask = bundle.mask_of(PLANTED, None)
    masked = mask.text(f"{before}{left}{planted}{right}{after}")
    assert planted not in masked
    # In JSON, too, which stays JSON.
    value = json.loads(json.dumps(mask.value({"x": [f"{before}{left}{planted}{right}{after}"]})))
    assert planted not in value["x"][0]


def test_it_is_for_its_owner_and_replaces_nothing(folder: Path, rows: list[Row]) -> None:
    place = folder / "d.zip"
    bundle.write(place, rows, PLANTED, None)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    before = place.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        bundle.write(place, rows, PLANTED, None)
    assert place.read_bytes() == before
    (folder / "link.zip").symlink_to(folder / "elsewhere.zip")
    for wrong in ("d.tar", "nowhere/d.zip", "link.zip"):
        with pytest.raises(OutputError):
            bundle.write(folder / wrong, rows, PLANTED, None)
    assert not (folder / "elsewhere.zip").exists()


def test_a_recipe_that_cannot_be_loaded_is_in_it_masked(folder: Path, rows: list[Row]) -> None:
    Path("bad.toml").write_text(f'task = "sft"\ntoken = "{HUGGING}"\nx = [\n')
    bundle.write(folder / "d.zip", rows, PLANTED, "bad.toml")
    text = _texts(folder / "d.zip")["recipe.toml"]
    assert HUGGING not in text
    assert 'task = "sft"' in text


@pytest.mark.parametrize(
    "line",
    [
        'master = "trainer07.acme.example:29501"',
        "master='trainer07.acme.example'",
        "master = trainer07.acme.example:29501",
        'launch.master = "trainer07.acme.example:x"',
        '"master" = """trainer07.acme.example:29501"""',
        'mastre = "trainer07.acme.example:29501"',
        'env = { MS_SCHED_HOST = "trainer07.acme.example" }',
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_the_machines_of_a_recipe_that_cannot_be_loaded_are_masked(
    folder: Path, rows: list[Row], line: str, extended: bool
) -> None:
    text = f'task = "sft"\nunknown = 1\n[launch]\n{line}\n'
    Path("base.toml").write_text(text)
    Path("bad.toml").write_text('extends = "base.toml"\nunknown = 1\n' if extended else text)
    said = Row(check="recipe", level="fail", evidence="Trainer07.acme.example and trainer07 are no machines")
    bundle.write(folder / "d.zip", [*rows, said], PLANTED, "bad.toml")
    texts = _texts(folder / "d.zip")
    assert "trainer07" not in "".join(texts.values()).lower()
    assert "unknown = 1" in texts["recipe.toml"]


def test_bytes_that_are_no_text_are_escaped(folder: Path) -> None:
    odd = os.fsdecode(b"/q\xff")
    found = [Row(check="cann", level="fail", evidence=f"{odd} does not exist", fix="x")]
    bundle.write(folder / "d.zip", found, {"ASCEND_HOME_PATH": odd, "LD_PRELOAD": odd}, None)
    texts = _texts(folder / "d.zip")
    assert "/q\\udcff does not exist" in texts["doctor.txt"]
    assert json.loads(texts["doctor.json"])[0]["evidence"] == f"{odd} does not exist"
    assert "ASCEND_HOME_PATH=/q\\udcff" in texts["environment.txt"]


def test_a_damaged_package_and_a_python_without_zlib_are_no_hindrance(
    folder: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = folder / "site" / "numpy-1.26.4.dist-info"
    damaged.mkdir(parents=True)
    (damaged / "METADATA").write_bytes(b"\xff\xfe")
    monkeypatch.syspath_prepend(str(folder / "site"))
    monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda name: None)
    bundle.write(folder / "b.zip", rows, PLANTED, None)
    with zipfile.ZipFile(folder / "b.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert "numpy==?\n" in archive.read("packages.txt").decode()


def test_a_clock_before_all_archives_is_no_matter(
    folder: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile.time, "time", lambda: 0.0)
    bundle.write(folder / "d.zip", rows, PLANTED, None)
    assert "doctor.txt" in _texts(folder / "d.zip")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_nothing_behind(
    folder: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = sorted(folder.iterdir())

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            bundle.write(folder / "d.zip", rows, PLANTED, None)
    assert sorted(folder.iterdir()) == before
    bundle.write(folder / "d.zip", rows, PLANTED, None)
    assert sorted(folder.iterdir()) == sorted([*before, folder / "d.zip"])


def test_the_command_prints_its_rows_and_names_the_archive(folder: Path, qvl, monkeypatch, rows: list[Row]) -> None:
    monkeypatch.setattr(examination, "examine", lambda *_, **__: rows)
    done = qvl("doctor", "--json", "--bundle", "d.zip")
    assert len(json.loads(done.out)) == 3
    assert "wrote d.zip, masked: README.txt, doctor.txt" in done.err
    again = qvl("doctor", "--bundle", "d.zip")
    assert again.code == 2
    assert "exists" in again.err
