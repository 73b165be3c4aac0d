"""Shell: what a launch script says, read without running any of it. The shell itself is the judge where it is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from qvl_core.migrate.shell_arithmetic import calculate
from qvl_core.migrate.shell_script import read_script
from qvl_core.migrate.shell_text import GAP


def value(text: str, name: str = "X") -> str:
    return read_script(text).variables[name].text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X=1", "1"),
        ("export X=1", "1"),
        ("A=8; X=$A", "8"),
        ("A=8; X=${A}b", "8b"),
        ("X=${NONE:-y}", "y"),
        ("A=; X=${A:-y}", "y"),
        ("A=; X=${A-y}", ""),
        ("A=1; X=${A:+set}", "set"),
        ("X=${B:-${C:-deep}}", "deep"),
        ("X=${B:=new}; Y=$B", "new"),
        ("X='$A # no'", "$A # no"),
        ('A=1; X="a $A b"', "a 1 b"),
        ('X="a\\"b\\$c"', 'a"b$c'),
        ("X=a\\ b", "a b"),
        ('X="a \\\nb"', "a b"),
        ("X=1 # comment", "1"),
        ("X=1#no", "1#no"),
        ("X=a'b'\"c\"", "abc"),
        ("N=8 M=2\nX=$((N * $M + (10 - 4) / 4 % 3))", "17"),
        ("X=$((-7 / 2))", "-3"),
        ("X=1\nX+=2", "12"),
        ("X=(1 2); X+=(3)", "1 2 3"),
        ("declare -x X=5", "5"),
        ("readonly X=5", "5"),
        ("A=(a 'b c'); X=\"${A[@]}\"", "a b c"),
    ],
)
def test_values_are_those_of_bash(text: str, expected: str, tmp_path: Path) -> None:
    assert value(text) == expected
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed: the expected values above are taken as they are")
    script = tmp_path / "a.sh"
    script.write_text(f'{text}\nprintf "%s" "${{X[*]}}"')
    said = subprocess.run([bash, str(script)], capture_output=True, text=True, check=True, env={"PATH": "/nowhere"})
    assert said.stdout == expected


@pytest.mark.parametrize("text", ["X=$(touch made)", "X=`touch made`", "X=$1", "X=$?", "X=$UNSET", "X=${A//b/c}"])
def test_nothing_is_executed_and_what_is_unknown_stays_so(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNSET", "from this process")
    assert not read_script(text).variables["X"].known
    assert list(tmp_path.iterdir()) == []


def test_arithmetic_that_cannot_be_done_is_unknown() -> None:
    assert calculate("1 / 0", lambda name: 0) is None
    assert calculate("1 +", lambda name: 0) is None
    assert calculate("2 ** -1", lambda name: 0) is None
    assert calculate("A = 08", lambda name: 0) is None
    assert calculate("1 = 2", lambda name: 0) is None
    assert calculate("(" * 5000 + "1", lambda name: 0) is None
    assert value("X=$((A / 2))").startswith(GAP)


def options(text: str) -> dict[str, tuple[str, ...]]:
    return {name: option.values for name, option in read_script(text).options.items()}


def test_options_come_from_the_command_that_starts_the_program() -> None:
    text = (
        "tar --exclude x --lr 9 -cf y z\n"
        'ARGS="\n  --lr 1e-5 \\\n  --bf16 \\\n"\n'
        "msrun --worker_num=8 train.py $ARGS \\\n  --save out 2>&1 | tee log --no --such --options --at --all\n"
    )
    assert options(text) == {"worker-num": ("8",), "lr": ("1e-5",), "bf16": (), "save": ("out",)}


def test_an_options_line_is_that_of_its_value() -> None:
    script = read_script('TP=2\nARGS="\n--tp $TP \\\n--lr 1"\npython a.py $ARGS')
    tp, lr = script.options["tp"], script.options["lr"]
    assert (tp.line, tp.value_lines, lr.value_lines) == (3, (1,), (4,))


def test_the_guides_comments_behind_a_backslash_are_left_out_and_told() -> None:
    script = read_script('A="\n  --no-load-optim \\  # 不加载优化器状态\n  --lr 1 \\  # rate\n"\nmsrun x.py $A')
    assert {name: option.values for name, option in script.options.items()} == {"no-load-optim": (), "lr": ("1",)}
    assert [line for line, _ in script.notes] == [2, 3]
    assert "inside the quotes" in script.notes[0][1]


def test_a_continuation_with_something_behind_it_is_told() -> None:
    script = read_script("msrun x.py \\  \n  --lr 1 \\ # rate\n  --bf16\n")
    assert {name: option.values for name, option in script.options.items()} == {"lr": ("1",), "bf16": ()}
    assert [line for line, _ in script.notes] == [1, 2]


def test_what_depends_on_a_condition_is_told_and_the_first_value_holds() -> None:
    script = read_script('PP=4\nif [ "$1" = big ]; then\n  PP=8\nfi\n[ -n "$A" ] && TP=2\nif make; then PP=16; fi\n')
    assert (script.variables["PP"].text, script.variables["TP"].text) == ("4", "2")
    assert [line for line, _ in script.notes] == [3, 5, 6]


def test_what_is_stated_twice_is_told_with_both_lines() -> None:
    script = read_script("PP=4\nPP=2\npython a.py --lr 1 \\\n--lr 2")
    assert ("PP", 1, "4", 2, "2") in script.repeated
    assert ("--lr", 3, "1", 4, "2") in script.repeated


def test_here_documents_loops_and_redirections_state_nothing() -> None:
    text = "cat > hosts <<-'END'\n\tTP=9\n\tmsrun --lr 9 x.py\n\tEND\nfor i in 1 2; do echo $i > $i.log; done\nTP=1\n"
    script = read_script(text)
    assert script.variables["TP"].text == "1"
    assert script.options == {}


def test_exports_of_every_form_are_known() -> None:
    script = read_script("A=1\nexport A B=2\nC=3 msrun x.py --lr 1\nD=4")
    assert {name: variable.exported for name, variable in script.variables.items()} == {
        "A": True,
        "B": True,
        "C": True,
        "D": False,
    }


@pytest.mark.parametrize(
    "text", ["", "'", '"', "$(", "${", "$((", "A=(", "<<", "`", "\\", "#", "if", ")))", "\0", "A=${B:-"]
)
def test_half_a_script_is_read_to_its_end(text: str) -> None:
    read_script(text)
    read_script(f"X=1\n{text}")
    read_script(f'X="{text}')


def test_without_a_command_the_argument_variables_count() -> None:
    script = read_script('GPT_ARGS="--lr 1"\nOUTPUT_ARGS="--save x"\n')
    assert set(script.options) == {"lr", "save"}
    assert "no options of a command" in script.notes[0][1]


SOURCING = "TP=2\nsource ./common.sh\nmsrun a.py --lr $LR --tp $TP\n"


def test_a_sourced_file_is_read_on_in_with_its_own_lines() -> None:
    files = {"common.sh": "# shared\nLR=1e-5\nTP=4\n"}
    script = read_script(SOURCING, files.get)
    assert script.options["lr"].values == ("1e-5",)
    assert script.place(script.options["lr"].value_lines[0], "f.sh") == "common.sh:2"
    ((name, line, _, later, _),) = script.repeated
    assert (name, script.place(line, "f.sh"), script.place(later, "f.sh")) == ("TP", "f.sh:1", "common.sh:3")
    assert script.sources == []


@pytest.mark.parametrize(
    ("path", "followed"),
    [
        ("common.sh", True),
        ("$(dirname $0)/common.sh", True),
        ('"${HERE}/examples/common.sh"', True),
        ("/opt/common.sh", False),
        ("other.sh", False),
        ("$NAME", False),
    ],
)
def test_only_files_beside_the_script_are_followed(path: str, followed: bool) -> None:
    script = read_script(f". {path}\nmsrun a.py --lr $LR\n", {"common.sh": "LR=1\n"}.get)
    assert (script.options["lr"].values == ("1",)) == followed
    assert bool(script.sources) != followed


def test_files_that_source_each_other_end() -> None:
    files = {"a.sh": "A=1\nsource b.sh\n", "b.sh": "B=2\nsource a.sh\n"}
    script = read_script("source a.sh\nmsrun x.py --a $A --b $B\n", files.get)
    assert (script.options["a"].values, script.options["b"].values) == (("1",), ("2",))


def test_set_a_exports_what_follows() -> None:
    script = read_script("A=1\nset -a\nB=1\nset +a\nC=1\nset -o allexport\nD=1\nset +o allexport\nE=1\n")
    assert [name for name, held in script.variables.items() if held.exported] == ["B", "D"]


@pytest.mark.parametrize(
    "text",
    [
        "X=aaaaaaaaaaaaaaaa\n" + "X=$X$X\n" * 60,
        "A=" + "${A:-" * 3000 + "x" + "}" * 3000,
        'A="' + '${A:-"' * 2000,
        "A=$((" + "(" * 5000 + "1" + ")" * 5000 + "))",
        'B=1\nA="' + "$B " * 50_000 + '"',
        "A=" + '"a"' * 50_000,
        "(" * 100_000,
    ],
    ids=["doubling", "defaults", "quotes", "brackets", "variables", "parts", "subshells"],
)
def test_scripts_made_to_hurt_are_read_to_their_end(text: str) -> None:
    script = read_script(f"{text}\n")
    assert sum(len(held.text) for held in script.variables.values()) < 8 << 20


@pytest.mark.parametrize(
    "wrapper",
    ["nohup ", "env A=1 ", "exec ", "time ", "sudo -E ", "srun --nodes=2 --lr 7 ", "numactl -N 0 ", "/usr/bin/nohup "],
)
def test_a_launcher_is_found_behind_what_wraps_it(wrapper: str) -> None:
    script = read_script(f"python convert.py --lr 1 --train-iters 5 --a --b\n{wrapper}msrun pretrain_vlm.py --lr 2\n")
    assert (script.program, {name: option.values for name, option in script.options.items()}) == (
        "pretrain_vlm.py",
        {"lr": ("2",)},
    )
    assert any("are not read: srun --nodes=2" in text for _, text in script.notes) == ("srun" in wrapper)


def test_the_program_goes_before_other_commands_and_further_starts_are_told() -> None:
    assert options("python a.py --x --y --z\npython pretrain_vlm.py --lr 2") == {"lr": ("2",)}
    assert options("echo msrun --x --y --z\npkill -f msrun\nmsrun a.py --lr 2") == {"lr": ("2",)}
    script = read_script("msrun pretrain_vlm.py --lr 1 --x\nmsrun pretrain_vlm.py --lr 2\n")
    assert script.options["lr"].values == ("1",)
    assert script.notes == [(2, "a further command starts a program; only the options of line 1 hold")]
    files = {"base.sh": "msrun pretrain_vlm.py --lr 1 --x --y --z\n"}
    assert read_script("source base.sh\nmsrun pretrain_vlm.py --lr 2\n", files.get).options["lr"].values == ("2",)


@pytest.mark.parametrize(
    "branches",
    [
        "in\n  big) MBS=4 ;;\n  small|tiny) MBS=8;;\n  *) MBS=2;;\nesac",
        "in\n  (big) MBS=4 ;;\n  *) case $B in x) MBS=3 ;; esac; MBS=2;;\nesac",
        "in a) MBS=4;; *) MBS=2;; esac",
        "in\n  a) f() { MBS=3; }; (cd x; MBS=9); MBS=4 ;;\n  *) MBS=2\nesac",
        "\nin a) if x; then MBS=3; fi; } ) MBS=4 ;; esac",
    ],
)
def test_branches_of_case_are_conditions_and_end_with_it(branches: str) -> None:
    script = read_script(f"MBS=1\ncase $SIZE {branches}\nTP=1\nTP=2\n")
    assert (script.variables["MBS"].text, script.variables["TP"].text) == ("1", "2")
    assert all("MBS is set again under a condition" in text for _, text in script.notes)
    assert script.notes
    assert [row[0] for row in script.repeated] == ["TP"]


@pytest.mark.parametrize(
    ("text", "setter"),
    [
        ("let MBS=TP/0", "let"),
        ("((MBS = $(nproc)))", "((...))"),
        ("read MBS < f", "read"),
        ("read -r -p TP MBS OTHER", "read"),
        ("printf -v MBS %d 4", "printf"),
        ("mapfile -t -n 3 MBS < f", "mapfile"),
        ("readarray MBS", "readarray"),
        ("if read -t 3 MBS; then x; fi", "read"),
    ],
)
def test_what_a_builtin_sets_is_unknown_and_told(text: str, setter: str) -> None:
    script = read_script(f"MBS=1\nTP=2\n{text}\nmsrun a.py --micro-batch-size $MBS\n")
    assert not script.variables["MBS"].known
    assert script.variables["TP"].text == "2"
    assert not script.options["micro-batch-size"].known
    (note,) = [note for note in script.notes if note[1].startswith("MBS")]
    assert note[0] == 3
    assert re.fullmatch(rf"MBS is set by {re.escape(setter)}.*: its value is not known", note[1])


@pytest.mark.parametrize(
    "text",
    [
        "((MBS == 2 || MBS <= 3))",
        "if make; then read MBS; fi",
        "ping -c 1 host || let MBS=2",
        'printf "%s" MBS=3',
        "eval $CMD --MBS=3",
    ],
)
def test_what_a_builtin_only_reads_or_sets_under_a_condition_stays(text: str) -> None:
    script = read_script(f"MBS=1\n{text}\nMBS+=0")
    assert script.variables["MBS"].text == "10"
    assert script.repeated == []


@pytest.mark.parametrize(
    ("text", "exported"),
    [
        ("declare -x A=1", True),
        ("A=1\ndeclare -x A", True),
        ("typeset -rx A=1", True),
        ("export -p A=1", True),
        ("env A=1 msrun x.py --lr 1", True),
        ("nohup /usr/bin/env -i B=2 A=1 msrun x.py --lr 1", True),
        ("declare -i A=1", False),
        ("readonly A=1", False),
        ("A=1\nenv B=2 msrun x.py A=3 --lr 1", False),
        ("A=1\necho env A=2", False),
    ],
)
def test_exports_by_declare_and_env_are_known(text: str, exported: bool) -> None:
    held = read_script(text).variables["A"]
    assert (held.text, held.exported) == ("1", exported)


@pytest.mark.parametrize("line", ["TP = 2", "TP =2", "TP= 2", "export TP = 2", "export TP= 2"])
def test_blanks_beside_the_sign_of_an_assignment_are_told(line: str) -> None:
    script = read_script(f"{line}\nmsrun a_vlm.py --seed 1\n")
    told = [note for number, note in script.notes if number == 1]
    assert any(note.endswith("with a blank beside = bash sets nothing") for note in told)


@pytest.mark.parametrize("line", ["X=1", "[ a = b ]", "test x = y", "a == b", "X= msrun b_vlm.py", "echo a = b"])
def test_other_signs_are_no_assignments(line: str) -> None:
    assert not [note for _, note in read_script(f"{line}\n").notes if "blank" in note]
