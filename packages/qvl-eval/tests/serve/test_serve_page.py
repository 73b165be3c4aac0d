"""The examples of docs/serve.md run, against a server whose model's part is played."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the official client is not installed")
pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

import qvl_eval.serve.limits
from running_server import FakeScheduler, RunningServer

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "serve.md"
ADDRESS = "127.0.0.1:8000"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    monkeypatch.chdir(ROOT)
    with RunningServer(scheduler=FakeScheduler("It is 7.")) as server:
        yield server


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_examples_run(server: RunningServer, capsys: pytest.CaptureFixture[str], number: int) -> None:
    source = blocks("python")[number].replace(ADDRESS, f"127.0.0.1:{server.port}")
    exec(compile(source, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("It is 7.")


def test_curl_examples_run(server: RunningServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    found = [block for block in blocks("bash") if block.startswith("curl ")]
    assert found
    script = found[0].replace(ADDRESS, f"127.0.0.1:{server.port}").replace("curl ", "curl --silent --fail ")
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert '"id":"tiny"' in done.stdout
    assert '"content":"It is 7."' in done.stdout


def test_every_metric_of_the_server_is_on_the_page_and_no_other(server: RunningServer) -> None:
    text = server.get("/metrics")[1].decode()
    real = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    said = set(re.findall(r"`(qvl_\w+)", PAGE.read_text(encoding="utf-8")))
    assert said == real


def test_limits_on_the_page_are_those_of_the_server() -> None:
    limits = qvl_eval.serve.limits.Limits()
    table = PAGE.read_text(encoding="utf-8").partition("## Limits")[2].partition("##")[0]
    stated = [limits.queue, limits.media, limits.image_pixels, limits.messages, limits.text_characters, limits.values]
    stated += [limits.connections, limits.stops, limits.stop_characters]
    for number in stated:
        assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", table), number
    for seconds in (limits.body_s, limits.header_s, limits.write_s, limits.silence_s):
        assert f" {seconds:g} s" in table, seconds
