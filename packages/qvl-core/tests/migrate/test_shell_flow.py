"""Loops, functions, conditions and eval around the command that starts the program; bash is the judge of known ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from qvl_core.migrate.shell_conditions import Token, holds
from qvl_core.migrate.shell_script import read_script

KNOWN = {
    "function": "run() {\n  msrun a_vlm.py --lr $1 --tp ${2:-4}\n}\nrun 1e-5",
    "defined first, called last": "f() { msrun a_vlm.py --tp $TP; }\nTP=1\nTP=2\nf",
    "function keyword": "function go {\n  local TP=8\n  msrun a_vlm.py --tp $TP --n $#\n}\nTP=1\ngo a b",
    "arguments": 'f() { shift; msrun a_vlm.py --save "$1" --all "$@"; }\nf x "a b" c',
    "functions in functions": "f() { g --tp $1; }\ng() { msrun a_vlm.py $@; }\nf 4",
    "local ends": "f() { local PP=9; TP=2; return; TP=3; }\nPP=1\nf\nmsrun a_vlm.py --pp $PP --tp $TP",
    "eval": 'CMD="msrun a_vlm.py --lr 1 \\\n --tp 2"\neval $CMD',
    "eval quoted twice": "A='x y'\nCMD='msrun a_vlm.py --save \"$A\" --tp $((1+1))'\neval \"$CMD\" | cat",
    "eval sets": 'NAME=TP\neval "$NAME=4"\nmsrun a_vlm.py --tp $TP',
    "words of a variable": 'CMD="msrun a_vlm.py --lr 1"\n$CMD --tp 2',
    "bash -c": "export TP=2\nPP=3\nbash -c 'msrun a_vlm.py --tp $TP --pp \"${PP:-1}\" --x $1' zero one",
    "known condition": "N=2\nif [ $N -gt 1 ]; then PP=8; else PP=4; fi\nmsrun a_vlm.py --pp $PP",
    "elif": "S=32b\nif [ $S = 7b ]; then T=1; elif [[ $S == 32* ]]; then T=2; else T=4; fi\nmsrun a_vlm.py --tp $T",
    "and or": 'A=\n[ -n "$A" ] && T=8 || T=1\n[[ -z $A ]] && P=2\nmsrun a_vlm.py --tp $T --pp $P',
    "not": "if ! [ 1 = 2 ]; then T=3; fi\nmsrun a_vlm.py --tp $T",
    "case": "S=72b\ncase $S in\n 3b|7b) T=1 ;;\n 72*) T=8;;\n *) T=2\nesac\nmsrun a_vlm.py --tp $T",
    "loop that collects": 'for O in --bf16 "--lr 1" --x; do ARGS="$ARGS $O"; done\nmsrun a_vlm.py $ARGS',
    "counting loop": "T=0; for ((i=0; i<3; i++)); do T=$((T+i)); done\nmsrun a_vlm.py --tp $T --i $i",
    "while": "i=1\nwhile (( i < 20 )); do i=$((i*2)); done\nmsrun a_vlm.py --tp $i",
    "until and break": "i=0\nuntil false; do i=$((i+1)); [ $i -ge 5 ] && break; done\nmsrun a_vlm.py --tp $i",
    "continue": "for i in 1 2 3; do [ $i = 2 ] && continue; L+=$i; done\nmsrun a_vlm.py --tp $L",
    "break 2": "for a in 1 2; do for b in 3 4; do break 2; done; done\nmsrun a_vlm.py --tp $a$b",
    "braces": "for i in {1..3} x{a,b}; do L+=$i; done\nmsrun a_vlm.py --tp $L",
    "subshell": "TP=1\n( TP=2; PP=3 )\nmsrun a_vlm.py --tp $TP --pp ${PP:-1}",
    "start in a subshell": "TP=1\n( TP=2; msrun a_vlm.py --tp $TP )\nTP=5",
    "pipeline": "TP=1\n{ TP=2; echo; } | cat\nmsrun a_vlm.py --tp $TP",
    "here-document": "ARGS=$(cat <<EOF\n--lr 1\n--tp $((2*2))\nEOF\n)\nmsrun a_vlm.py $ARGS",
    "read": "read -r -d '' ARGS <<EOF || true\n  --lr 1\n --tp $((2*2))\n\nEOF\nmsrun a_vlm.py $ARGS",
    "read as it stands": "IFS= read -r -d '' ARGS <<'EOF'\n--lr $X\nEOF\nmsrun a_vlm.py --b \"${#ARGS}\"",
    "arithmetic": "((W = 8 * 4)); let D=W/2 'D -= 1'; declare -i G=D*2\nmsrun a_vlm.py --w $W --d $D --g $G",
    "ternary": "N=4; msrun a_vlm.py --tp $(( N > 2 ? N / 2 : 1 )) --pp $(( 0x10 ** 1 ))",
    "cut": "P=ckpt/mm/Qwen2.5-VL-7B.bak; S=${P##*/}; msrun a_vlm.py --s ${S%.bak} --l ${#S} --r ${P//B/b} --u ${S,,}",
    "array items": 'A=(1 "b c" 3); A[0]=x; msrun a_vlm.py --n ${#A[@]} --f "${A[1]}" --l "${A[@]}" --k ${A[0]}',
    "printed": "A=`expr 4 + 4`; B=$(echo $A x); C=$(basename /a/b.sh); msrun a_vlm.py --a $A --b $B --c $C",
    "exit": "msrun a_vlm.py --tp 1\nexit 0\nTP=2\nmsrun a_vlm.py --tp 2 --x 1 --y 2",
    "prefix is gone": "TP=1\nTP=9 true\nmsrun a_vlm.py --tp $TP",
    "set": "set -- 3 4\nfor i; do S+=$i; done\nmsrun a_vlm.py --tp $1 --s $S --n $#",
    "windows": "f() {\r\n  if [ 1 -eq 1 ]; then\r\n    msrun a_vlm.py --tp 2\r\n  fi\r\n}\r\nf\r\n",
}


def started_by_bash(text: str, folder: Path) -> list[str]:
    """Give the words behind the first msrun that bash starts."""
    stub = folder / "bin" / "msrun"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@" next >> "$OUT"\n')
    stub.chmod(0o755)
    (folder / "f.sh").write_text(text.replace("\r", ""))
    environment = {"PATH": f"{stub.parent}:/usr/bin:/bin", "OUT": str(folder / "out")}
    subprocess.run(["bash", "f.sh"], cwd=folder, env=environment, check=False, stdin=subprocess.DEVNULL)
    return (folder / "out").read_text().partition("next\n")[0].splitlines()


@pytest.mark.parametrize("text", KNOWN.values(), ids=KNOWN.keys())
def test_what_starts_the_program_is_what_bash_starts(text: str, tmp_path: Path) -> None:
    script = read_script(text)
    ours = [word for option in script.options.values() for word in (f"--{option.name}", *option.values)]
    assert ours
    assert script.program == "a_vlm.py"
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed, and it is the judge")
    assert ours == started_by_bash(text, tmp_path)[1:]


def told(text: str) -> list[str]:
    return [note for _, note in read_script(text).notes]


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("run() {\n msrun a_vlm.py --lr 1\n}\nrun", "started by run, a function"),
        ('CMD="msrun a_vlm.py --lr 1"\neval "$CMD"', "started by eval"),
        ('CMD="msrun a_vlm.py --lr 1 $(date)"\neval "$CMD"', "a part of what eval runs is not known"),
        ("eval $CMD", "what eval runs is not known"),
        ("LR=${1:-1}\nmsrun a_vlm.py --lr $LR", "$1 is what the script is started with: taken as not given"),
        (
            "LR=${LR:-1}\nmsrun a_vlm.py --lr $LR",
            "LR is 1 here: its default, unless the shell that starts the script has it",
        ),
        ('data() { ls; }\ntrain() { msrun a_vlm.py --lr 1; }\n"$@"', "train, a function, is called by nothing"),
        ("for LR in 1 2; do msrun a_vlm.py --lr $LR; done", "for LR = 1, 2: only LR = 1 is read"),
        ("while true; do msrun a_vlm.py --lr 1; done", "only its first round is read"),
        ("for ((i=0; i<9; i++)); do msrun a_vlm.py --lr 1$i; done", "only its first round is read"),
        ("bash -c 'msrun a_vlm.py --lr 1'", "started by another shell, which runs a text"),
        ("nohup bash -c 'msrun a_vlm.py --lr 1' > log 2>&1 &", "started by another shell, which runs a text"),
        ("X=$(msrun b_vlm.py --lr 2)\nmsrun a_vlm.py --lr 1", "a program is started inside $(...)"),
        ("sudo docker exec x bash -c 'msrun a_vlm.py'\nmsrun a_vlm.py --lr 1", "what docker starts is not read"),
        ("cd /x/y\nmsrun a_vlm.py --lr 1", "cd /x/y: relative paths start there"),
        ("ssh host 'msrun a_vlm.py --lr 2'\nmsrun a_vlm.py --lr 1", "what ssh starts is not read"),
        ("msrun a_vlm.py --bf16 $MORE --lr 1", "options that stand in it are not read"),
        ("msrun a_vlm.py --lr 1\nexport HCCL_X=1", "HCCL_X is exported after the program has started"),
        ("while read line; do A=2; msrun a_vlm.py --lr 1; done < f", "how often the loop of line 1 runs is not known"),
        ("f() { f; }\nf\nmsrun a_vlm.py --lr 1", "calls itself more often than is followed"),
    ],
)
def test_what_is_followed_and_what_is_not_is_told(text: str, remark: str) -> None:
    assert any(remark in note for note in told(text)), told(text)
    if not text.startswith("eval $CMD"):
        assert read_script(text).options["lr"].values[0].startswith("1")


@pytest.mark.parametrize(
    "command",
    [
        "nohup bash -c 'TEXT' &",
        "exec bash -c 'TEXT'\nmsrun b_vlm.py --lr 9",
        "setsid /bin/bash -lc 'TEXT'",
        "timeout 5h sh -euc 'TEXT'",
        "sudo -u someone bash -c 'TEXT'",
        "srun -N 1 -p big bash -c 'TEXT'",
        "srun -p parallel bash -c 'TEXT'",
        "nohup srun -u -J sh bash -c 'TEXT'",
        "srun --job-name python bash -c 'TEXT'",
        "sudo -g docker -u ansible bash -c 'TEXT'",
        "sudo -n bash run.inc python",
        "exec -a python bash -c 'TEXT'",
        "env P=/usr/bin/python3 bash -c 'TEXT'",
        "nohup env A=1 bash -c 'TEXT'",
        "exec bash run.inc",
    ],
)
def test_another_shell_is_read_behind_what_wraps_it(command: str) -> None:
    text = "msrun a_vlm.py --lr $LR"
    script = read_script(f"export LR=1\n{command.replace('TEXT', text)}\n", {"run.inc": text}.get)
    assert (script.program, script.options["lr"].values) == ("a_vlm.py", ("1",))


@pytest.mark.parametrize("command", ["LR=2 bash -c 'TEXT'", "LR=2 nohup bash -c 'TEXT'", "env LR=2 bash -c 'TEXT'"])
def test_another_shell_has_what_stands_before_it(command: str) -> None:
    text = "LR=1\n" + command.replace("TEXT", "msrun a_vlm.py --lr $LR")
    assert read_script(text).options["lr"].values == ("2",)


@pytest.mark.parametrize("command", ["pgrep -f pretrain_vlm.py", "which msrun", "date", "python -c 'print(1)'"])
def test_what_only_names_a_program_starts_none(command: str) -> None:
    assert not [note for note in told(f"X=$({command})\nmsrun a_vlm.py --lr 1") if "inside" in note]


def test_values_of_functions_and_eval_keep_the_line_on_which_they_are_stated() -> None:
    script = read_script('LR=1\nCMD="msrun a_vlm.py \\\n  --lr $LR \\\n  --tp 2"\neval "$CMD"\n')
    assert (script.options["lr"].value_lines, script.options["tp"].line) == ((1,), 4)
    script = read_script("run() {\n  msrun a_vlm.py --tp $1\n}\n\nrun 4\n")
    assert (script.options["tp"].line, script.options["tp"].value_lines) == (2, (5,))


@pytest.mark.parametrize(
    "text",
    [
        "for T in $LIST; do TP=$T; done",
        "for T in *.txt; do TP=2; done",
        "while make; do TP=2; done",
        "if [ -f x ]; then TP=2; else TP=3; fi",
        'case "$1" in a) TP=2;; *) TP=3;; esac',
        "until ping host && TP=2; do sleep 1; done",
        "TP[$N]=5",
        "f() { TP=$1; }\nf $WORD more",
        "select TP in 1 2; do break; done",
        "for i in 1 2 3; do TP=$i; ping $i && break; done",
        "set -- $WORDS 2\nTP=$2",
        "TP+=$(nproc)",
        "echo 2 | read TP; read TP < f",
    ],
)
def test_what_cannot_be_known_is_unknown_or_told(text: str) -> None:
    script = read_script(f"TP=1\n{text}\nmsrun a_vlm.py --tp $TP\n")
    assert script.notes or not script.options["tp"].known


def test_variables_after_the_start_had_no_part_in_it() -> None:
    script = read_script("TP=1\nmsrun a_vlm.py --tp $TP\nTP=2\nexport TP\n")
    assert (script.variables["TP"].text, script.variables["TP"].exported) == ("1", False)
    assert script.repeated == []


def test_defaults_of_what_the_script_sets_and_empty_ones_are_not_told() -> None:
    assert told('A=\n[ -z "${B:-}" ] && A=${A:-1}\nP=${P:-}:/x\nmsrun a_vlm.py --tp ${A:-2}\n') == []


def test_what_is_set_after_the_start_is_not_told() -> None:
    assert told('msrun a_vlm.py --tp 1\nif [ "$LOG" ]; then\n  MEAN=`awk x`\nfi\n') == []


def test_a_command_that_is_none_of_ours_keeps_what_is_exported() -> None:
    script = read_script("export A=1\nbash launch.sh --lr 1 --tp 2\n")
    assert (script.options["lr"].values, script.variables["A"].exported) == (("1",), True)
    assert script.notes == [
        (2, "nothing that starts msrun, torchrun or python was found; the options of this command are taken")
    ]


@pytest.mark.parametrize("stated", ["--nodes=4", "-N 4", "--nodes 4", "-N4"])
def test_machines_that_slurm_is_asked_for_are_known(stated: str) -> None:
    script = read_script(f"#!/bin/bash\n#SBATCH {stated}\nNNODES=$SLURM_NNODES\nmsrun a_vlm.py --n $NNODES\n")
    assert (script.options["n"].values, script.options["n"].value_lines) == (("4",), (2,))


def test_a_value_made_of_itself_is_no_contradiction() -> None:
    assert read_script('A=1\nA="$A 2"\nN=1\nN=$((N+1))\nA+=3\n').repeated == []
    assert [row[0] for row in read_script("A=1\nA=12\n").repeated] == ["A"]


def test_loops_without_end_are_read_to_their_limit() -> None:
    script = read_script("A=1\nwhile true; do A=$((A+1)); done\nmsrun a_vlm.py --tp $A --lr 1\n")
    assert not script.options["tp"].known
    assert any("a loop is longer than is read" in note for _, note in script.notes)


@pytest.mark.parametrize(
    "text",
    [
        "for a in {1..99}; do " * 12 + ":" + "; done" * 12,
        "".join(f"f{n + 1}() {{ f{n}; f{n}; }}\n" for n in range(40)) + "f0() { :; }\nf40",
        "".join(f'A{n + 1}=\'eval "$A{n}"; eval "$A{n}"\'\n' for n in range(39)) + 'A0=:\neval "$A39"',
        "while true; do while true; do :; done; done",
        "if true; then " * 200 + ":" + "; fi" * 200,
        "case a in a) " * 200 + ":" + ";; esac" * 200,
        "f() { f; f; }\nf",
        "X=" + "x" * 20_000 + "\nY=${X//x*y/}",
        "((" + "a=" * 20_000 + "1))",
    ],
    ids=["loops", "functions", "eval", "while", "if", "case", "itself", "pattern", "arithmetic"],
)
def test_scripts_that_go_on_for_ever_are_read_to_an_end(text: str) -> None:
    assert read_script(f"TP=1\nmsrun a_vlm.py --tp $TP\n{text}\n").options["tp"].values == ("1",)
    script = read_script(f"TP=1\n{text}\nmsrun a_vlm.py --tp $TP\n")
    assert script.options["tp"].values == ("1",) if "tp" in script.options else script.notes


HOSTS = {"hosts.txt": "10.0.0.1 slots=8\n10.0.0.2\n# spare\n10.0.0.3\n"}


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("cat $H | wc -l", "4"),
        ("wc -l < $H", "4"),
        ("wc -l $H | awk '{print $1}'", "4"),
        ("grep -c . $H", "4"),
        ("grep -v '^#' $H | wc -l", "3"),
        ("awk 'END{print NR}' $H", "4"),
        ("head -n1 $H | awk '{print $1;}'", "10.0.0.1"),
        ("head -n 1 $H | awk '{ print $1 }'", "10.0.0.1"),
        ("sed -n 1p $H | awk '{print $1}'", "10.0.0.1"),
        ("awk 'NR==2{print $1}' $H", "10.0.0.2"),
        ("tail -1 ./$H", "10.0.0.3"),
    ],
)
def test_a_host_file_beside_the_script_is_counted(command: str, printed: str, tmp_path: Path) -> None:
    script = read_script(f"H=hosts.txt\nX=$({command})\n", HOSTS.get)
    assert script.variables["X"].text == printed
    assert script.notes == [(2, "counted or read in hosts.txt, which lies beside the script")]
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed: the values above are taken as they are")
    (tmp_path / "hosts.txt").write_text(HOSTS["hosts.txt"])
    said = subprocess.run(
        ["bash", "-c", f"H=hosts.txt; printf %s $({command})"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout == printed


def test_line_ends_behind_a_here_document_are_left_out() -> None:
    script = read_script('A=3\nX=$(cat <<E\nv=$A\n\nE\n)\nY="$X/y"\n')
    assert (script.variables["X"].text, script.variables["Y"].text) == ("v=3", "v=3/y")


@pytest.mark.parametrize(
    ("command", "printed", "told"),
    [
        ("cat h | wc -l", "1", True),
        ("wc -l < h", "1", True),
        ("wc -l h | awk '{print $1}'", "1", True),
        ("cat h | wc -l | awk '{print $1}'", "1", True),
        ("wc -l h | xargs", "1 h", True),
        ("tail -n1 h | wc -l", "0", True),
        ("cat e h | wc -l", "2", True),
        ("head -n1 h", "10.0.0.1", False),
        ("head -n1 h | wc -l", "1", False),
        ("sort -u h | wc -l", "2", False),
        ("awk '{print $1}' h | wc -l", "2", False),
        ("cat h | grep . | wc -l", "2", False),
        ("cat h e | wc -l", None, False),
        ("awk 'END{print NR}' h e", None, False),
    ],
)
def test_a_host_file_without_a_line_end_is_told_where_its_last_line_is_not_counted(
    command: str, printed: str | None, told: bool
) -> None:
    script = read_script(f"X=$({command})\n", {"h": "10.0.0.1\n10.0.0.2", "e": "10.0.0.3\n"}.get)
    assert script.variables["X"].known == (printed is not None)
    assert printed is None or script.variables["X"].text == printed
    assert ((1, "h has no line end behind its last line, which wc -l does not count") in script.notes) == told


@pytest.mark.parametrize(
    "command",
    [
        "cat /etc/hosts",
        "cat $H > x",
        "cat none",
        "cat $H; rm $H",
        "cat $H | sort -k2",
        "cat $UNSET",
        "rm $H",
        "cat <(x)",
    ],
)
def test_other_commands_stay_unknown_and_are_not_run(command: str) -> None:
    assert not read_script(f"H=hosts.txt\nX=$({command})\n", HOSTS.get).variables["X"].known


@pytest.mark.parametrize(
    ("words", "double", "expected"),
    [
        ("a", False, True),
        ("", False, False),
        ("! a", False, False),
        ("1 -lt x", False, None),
        ("-f x", False, None),
        ("a = a -a b = b", False, None),
        ("a -nt b", False, None),
        ("abc == a*", True, True),
        ("abc = a*", False, False),
        ("1+1 -eq 2", True, True),
        ("a =~ a", True, None),
    ],
)
def test_conditions(words: str, double: bool, expected: bool | None) -> None:
    assert holds([Token(text=word) for word in words.split()], lambda name: None, double=double) is expected


@pytest.mark.parametrize(
    "loop",
    [
        'while [[ $# -gt 0 ]]; do\n  case "$1" in\n    --tp) TP=$2; shift 2;;\n    *) usage; exit 1;;\n  esac\ndone',
        "while (( $# )); do TP=$1; shift; done",
        'while [ -n "$1" ]; do TP=$1; shift; done',
        'while getopts "t:p:" opt; do\n  case $opt in t) TP=$OPTARG;; esac\ndone',
        'for one in "$@"; do case $one in --tp=*) TP="${one#*=}";; esac; done',
        "for one; do TP=$one; done",
        'until [ "$#" -eq 0 ]; do TP=$1; shift; done',
        'parse() { while [ $# -gt 0 ]; do TP=$1; shift; done; }; parse "$@"',
    ],
)
def test_a_loop_over_the_scripts_own_arguments_leaves_the_defaults(loop: str) -> None:
    usage = "usage() {\n  echo no\n}\n"
    script = read_script(f"{usage}{loop}\nTP=${{TP:-2}}\nmsrun a_vlm.py --tp $TP\n")
    assert script.options["tp"].values == ("2",)
    (told,) = [note for _, note in script.notes if "started with" in note and "loop" in note]
    assert told == "the loop of line 4 reads what the script is started with: taken as not given"


@pytest.mark.parametrize(
    "loop",
    [
        'for one in "$@"; do msrun a_vlm.py --tp 2 --x $one; done',
        'train() {\n  msrun a_vlm.py --tp 2\n}\nfor one in "$@"; do train $one; done',
        "while [ $# -gt 0 ]; do msrun a_vlm.py --tp 2; shift; done",
    ],
)
def test_a_loop_over_arguments_that_starts_the_program_is_read(loop: str) -> None:
    assert read_script(f"{loop}\n").options["tp"].values == ("2",)


def test_what_a_usage_prints_starts_nothing() -> None:
    usage = "usage() { cat <<EOF\n msrun pretrain_vlm.py --tp N\nEOF\n}\n"
    loop = "while [ $# -gt 0 ]; do case $1 in --tp) TP=$2;; *) usage;; esac; shift; done\n"
    script = read_script(f"{usage}{loop}TP=${{TP:-2}}\nmsrun a_vlm.py --tp $TP\n")
    assert script.options["tp"].values == ("2",)


@pytest.mark.parametrize(
    "text",
    [
        "set -- $MORE\nfor one; do TP=$one; done",
        'f() { for one in "$@"; do TP=$one; done; }\nf $MORE',
        'f() { for one in "$@"; do TP=$one; done; }\nf "$@" 3',
    ],
)
def test_a_loop_over_what_is_not_the_scripts_is_not_passed_over(text: str) -> None:
    script = read_script(f"TP=1\n{text}\nmsrun a_vlm.py --tp $TP\n")
    assert script.options["tp"].values != ("1",) or any("TP" in note for _, note in script.notes)
    assert not any("started with: taken as not given" in note and "loop" in note for _, note in script.notes)
