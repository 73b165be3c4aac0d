"""`qvl infer`, `qvl chat`, `qvl serve` with a model that is cut over real processes (a random tiny one, over MPI)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from http_calls import metric, post
from qvl_core.cli.app import main
from qvl_core.launch.proc import all_statuses, status_of
from recipe_parts import TRAINING
from running_server import asked, asked_about, data_url

WriteRecipe = Callable[..., Path]
DIGITS = Path(__file__).resolve().parents[4] / "recipes" / "tiny" / "digits" / "images"
PICTURES = sorted(DIGITS.glob("*.png"))[:4]
# Nothing takes as long, however busy the machine is.
LIMIT_S = 900

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="mindspore is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="several processes need qvl-core[mpi]"),
]

LAYOUTS = {
    "tp2": ["layout.tp=2"],
    # Vision on stage 0, which inference asks for.
    "pp2": ["layout.pp=2", "layout.vision_stages=[4,0]", "layout.text_stages=[1,3]"],
    "dp2": ["layout.dp=2"],
    "tp2-dp2": ["layout.tp=2", "layout.dp=2"],
}


def settings(layout: str) -> list[str]:
    return [word for one in LAYOUTS[layout] for word in ("--set", one)]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows: list[dict[str, object]] = [{"prompt": f"Which is it, {n}?", "images": [PICTURES[n].name]} for n in range(4)]
    rows += [{"prompt": "Two?", "images": [picture.name for picture in PICTURES[:2]]}, {"prompt": "Hello"}]
    rows += [{"prompt": "broken", "images": ["none.png"]}, {"prompt": "Again?", "system": "Be brief."}]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def infer_words(recipe: Path, source: Path, output: Path, *more: str) -> list[str]:
    words = ["infer", str(recipe), "--input", str(source), "--output", str(output), "--media-root", str(DIGITS)]
    return [*words, "--set", "generation.max_new_tokens=8", *more]


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    """Give a place for what is the same in every test: recipe, weights and questions are."""
    return {}


@pytest.fixture
def expected(write_recipe: WriteRecipe, questions: Path, tmp_path: Path, kept: dict[str, bytes]) -> bytes:
    """Give the file of answers of one process."""
    if "answers" not in kept:
        output = tmp_path / "one.jsonl"
        assert main(infer_words(write_recipe("infer"), questions, output)) == 2, "one row cannot be asked"
        kept["answers"] = output.read_bytes()
    return kept["answers"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_answers_of_one_process_to_the_byte_and_who_asks_imports_no_mindspore(
    write_recipe: WriteRecipe, questions: Path, expected: bytes, tmp_path: Path, layout: str
) -> None:
    output = tmp_path / "ranks.jsonl"
    words = infer_words(write_recipe("infer"), questions, output, "--batch", "2", *settings(layout))
    program = f"import sys; from qvl_core.cli.app import main; print(main({words!r}), 'mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stdout.splitlines()[-1] == "2 False", done.stderr
    assert output.read_bytes() == expected
    assert len({json.loads(line).get("answer") for line in expected.splitlines()}) > 2, "answers that say something"


def test_qvl_run_of_an_infer_recipe_uses_the_layout(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("infer")
    recipe.write_text(recipe.read_text() + f'[infer]\nprompt = "What?"\nimages = ["{PICTURES[0]}"]\n')
    assert main(["run", str(recipe)]) == 0
    alone = capsys.readouterr().out
    assert main(["run", str(recipe), *settings("pp2")]) == 0
    assert capsys.readouterr().out == alone
    assert not _left_over()


def test_weights_of_a_training_recipe_answer_in_several_processes(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("infer")
    words = ("--prompt", "What?", "--image", str(PICTURES[0]))
    assert main(["infer", str(recipe), *words]) == 0
    alone = capsys.readouterr().out
    sft = tmp_path / "sft.toml"
    text = recipe.read_text().replace('"infer"', '"sft"').replace("[data.image]", f"{TRAINING}[data.image]")
    sft.write_text(text)
    assert main(["infer", str(sft), *words, *settings("tp2")]) == 0
    assert capsys.readouterr().out == alone
    # Beside the logs of the training, which are in `logs` itself.
    assert (tmp_path / "run" / "logs" / "infer" / "rank_001.log").is_file()


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Give a `qvl` process; nothing of it is left after the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qvl_core.cli", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    killer = threading.Timer(LIMIT_S, process.kill)
    killer.start()
    try:
        yield process
    finally:
        killer.cancel()
        process.kill()
        process.wait()
        _wait_until(lambda: not workers_of(process.pid))


def workers_of(launcher: int) -> dict[int, int]:
    """Give the processes of the workers that a process has started, by rank."""
    found = {}
    for status in all_statuses():
        try:
            text = Path(f"/proc/{status.process}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        variables = dict(part.partition("=")[::2] for part in text.split("\0"))
        rank = variables.get("OMPI_COMM_WORLD_RANK")
        if rank is not None and variables.get("QVL_LAUNCHER", "").startswith(f"{launcher}:"):
            found[int(rank)] = status.process
    return found


def _left_over() -> list[int]:
    return list(workers_of(os.getpid()).values())


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@contextmanager
def serving(recipe: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with started("serve", str(recipe), "--port", "0", "--name", "tiny", *words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                yield process, int(found[1])
                return
        raise AssertionError(process.stderr.read())


def test_a_server_over_ranks_gives_the_answers_of_one_process_and_drains(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("infer")
    alone = []
    for picture in PICTURES:
        assert main(["infer", str(recipe), "--prompt", "What?", "--image", str(picture)]) == 0
        alone.append(capsys.readouterr().out.strip())
    bodies = [asked_about(data_url(picture.read_bytes())) for picture in PICTURES]
    # Time enough for the last answers, however busy the machine is.
    words = ("--batch", "2", "--drain", str(LIMIT_S), *settings("tp2"))
    with serving(recipe, *words) as (process, port), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: post(port, body), bodies * 3))
        assert [status for status, _ in found] == [200] * 12
        assert [json.loads(data)["choices"][0]["message"]["content"].strip() for _, data in found] == alone * 3
        # Long enough that the first is not over before the last one has come.
        late = [pool.submit(post, port, {**body, "max_tokens": 400}) for body in bodies]
        _wait_until(lambda: metric(port, "qvl_requests_in_house") == len(bodies))
        process.send_signal(signal.SIGTERM)
        assert [one.result()[0] for one in late] == [200] * len(bodies)
        assert process.wait(LIMIT_S) == 0
        assert not workers_of(process.pid)


def test_idle_workers_sleep_and_a_killed_one_ends_the_server_with_the_rank(write_recipe: WriteRecipe) -> None:
    with serving(write_recipe("infer"), *settings("tp2")) as (process, port):
        assert post(port, asked("Hi"))[0] == 200
        workers = list(workers_of(process.pid).values())
        assert len(workers) == 2
        before = {one: status_of(one) for one in workers}
        started_at = time.monotonic()
        # Measured against their own clock, and far from what spinning takes: a whole core each.
        threading.Event().wait(3.0)
        passed_s = time.monotonic() - started_at
        for one, status in before.items():
            now = status_of(one)
            assert now is not None
            assert status is not None
            assert now.cpu_s - status.cpu_s < 0.4 * passed_s
        assert post(port, asked("Hi"))[0] == 200
        os.kill(workers_of(process.pid)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 1
        assert "rank 1 (stage 0, tp 1, dp 0)" in errors
        assert "SIGKILL" in errors
        assert not workers_of(process.pid)


def test_a_worker_killed_at_work_fails_the_requests_under_way(write_recipe: WriteRecipe) -> None:
    words = ("--set", "generation.max_new_tokens=4000", *settings("tp2"))
    with serving(write_recipe("infer"), *words) as (process, port), ThreadPoolExecutor(2) as pool:
        asking = pool.submit(post, port, asked("Hi", stream=False, max_tokens=3000))
        workers = workers_of(process.pid)
        _wait_until(lambda: metric(port, "qvl_slots_active") > 0)
        os.kill(workers[1], signal.SIGKILL)
        status, data = asking.result()
        assert status == 500
        assert b"a process that holds the model has ended" in data
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 1
        assert "rank 1 (stage 0, tp 1, dp 0)" in errors


def test_a_killed_worker_ends_qvl_infer_with_the_rank_and_the_next_run_goes_on(
    write_recipe: WriteRecipe, questions: Path, expected: bytes, tmp_path: Path
) -> None:
    recipe, output = write_recipe("infer"), tmp_path / "ranks.jsonl"
    with started(*infer_words(recipe, questions, output, *settings("pp2"))) as process:
        _wait_until(lambda: 1 in workers_of(process.pid))
        os.kill(workers_of(process.pid)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 1
        assert "rank 1" in errors
    assert main(infer_words(recipe, questions, output)) == 2
    assert output.read_bytes() == expected


def test_ctrl_c_ends_qvl_infer_and_its_workers(write_recipe: WriteRecipe, questions: Path, tmp_path: Path) -> None:
    recipe, output = write_recipe("infer"), tmp_path / "ranks.jsonl"
    # However fast the machine is, most rows are still to do when the first is done.
    questions.write_text(questions.read_text() * 40)
    long = ("--set", "generation.max_new_tokens=40", "--batch", "1")
    with started(*infer_words(recipe, questions, output, *long, *settings("tp2"))) as process:
        _wait_until(lambda: output.exists() and output.stat().st_size > 0)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert not workers_of(process.pid)


def test_ctrl_c_ends_everything(write_recipe: WriteRecipe) -> None:
    with serving(write_recipe("infer"), *settings("dp2")) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0
        assert not workers_of(process.pid)


def test_a_killed_front_end_leaves_nobody_behind(write_recipe: WriteRecipe) -> None:
    with serving(write_recipe("infer"), *settings("tp2")) as (process, _):
        assert len(workers_of(process.pid)) == 2
        process.kill()
        process.wait()
        _wait_until(lambda: not workers_of(process.pid))


def test_a_chat_over_stages(write_recipe: WriteRecipe) -> None:
    text = f"/image {PICTURES[0]}\nWhat is it?\nAnd again?\n"
    recipe, shown = str(write_recipe("infer")), []
    for words in ([], settings("pp2")):
        done = subprocess.run(
            [sys.executable, "-m", "qvl_core.cli", "chat", recipe, *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
    assert shown[0] == shown[1]
    assert len(shown[0].splitlines()) == 3, "the picture, and two answers"
