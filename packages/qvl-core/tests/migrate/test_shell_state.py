"""What a script has set: IFS, attributes of variables, items that are unset, loops of unknown length."""

from __future__ import annotations

import pytest
from qvl_core.migrate.shell_script import read_script


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IFS=$'\\n'\nX='a b'", ("a b",)),
        ("IFS=\nX='a b'", ("a b",)),
        ("IFS=,\nX='a b'", ("a b",)),
        ("OLD=$IFS\nIFS=,\nIFS=$OLD\nX='a b'", ("a", "b")),
        ("IFS=,\nunset IFS\nX='a b'", ("a", "b")),
        ("IFS=, read -r Y < f\nX='a b'", ("a", "b")),
        ("f() { local IFS=,; }\nf\nX='a b'", ("a", "b")),
        ('IFS=,\nL=(a b)\nX="${L[*]}"\nunset IFS', ("a,b",)),
        ('f() { local IFS=,; X="$*"; }\nf a b', ("a,b",)),
    ],
)
def test_values_are_split_where_ifs_says_so(text: str, expected: tuple[str, ...]) -> None:
    assert read_script(f"{text}\nmsrun a_vlm.py --x $X\n").options["x"].values == expected


@pytest.mark.parametrize(
    "text",
    [
        "IFS=,\nX=a,b",
        "IFS=$SEPARATOR\nX='a b'",
        "D=0,1,2\nIFS=,\nL=($D)\nX=${#L[@]}",
        "declare -i X=3*4\nX+=1",
        "declare -i X\nX=3*4",
        "L=(1 2 3)\nunset 'L[0]'\nX=${L[0]}",
        "L=(1 2 3)\nunset 'L[1]'\nX=${#L[@]}",
        "X=0\nwhile read -r L; do X=$((X+1)); done < hosts",
        "X=0\nfor H in $HOSTS; do X=$((X+1)); done",
        "X=0\nfor H in $HOSTS; do ((X++)); done",
        "X=0\nfor H in $HOSTS; do let X+=1; done",
        "X=0\nfor H in $HOSTS; do if [ $H != a ]; then X=$((X+1)); fi; done",
        "L=()\nfor H in $HOSTS; do L+=($H); done\nX=${#L[@]}",
        "X=0\nfor ((i=0; i<N; i++)); do X=$((X+2)); done",
        "X=a\nfor H in $HOSTS; do X=$X,$H; done",
    ],
)
def test_what_cannot_be_known_is_unknown(text: str) -> None:
    assert not read_script(f"{text}\nmsrun a_vlm.py --x $X\n").options["x"].known


@pytest.mark.parametrize(
    "text", ["readonly X=3\nX=4", "X=3\nreadonly X\nX=4", "declare -r X=3\nX=4", "readonly X=3\nunset X"]
)
def test_what_is_read_only_stays_and_is_told(text: str) -> None:
    script = read_script(f"{text}\n")
    assert script.variables["X"].text == "3"
    assert any("X is read-only" in note for _, note in script.notes)


@pytest.mark.parametrize(
    "text", ["( readonly X=1 )\nX=2", "f() { local -r X=1; }\nf\nX=2", "export X=1\nreadonly X\nbash -c 'X=3'\nY=${X}"]
)
def test_attributes_end_with_their_shell(text: str) -> None:
    assert not any("X is read-only" in note for _, note in read_script(f"{text}\n").notes)


def test_the_last_item_is_taken_off_and_nothing_is_said_of_a_condition() -> None:
    script = read_script("L=(1 2 3)\nunset 'L[2]'\nunset 'L[7]'\nX=${#L[@]}\n")
    assert (script.variables["X"].text, script.notes) == ("2", [])
    script = read_script("L=(1 2 3)\nunset 'L[0]'\n")
    assert [note for _, note in script.notes] == ["L has an item unset: its value is not known"]


def test_what_stands_in_front_of_what_a_loop_adds_is_known() -> None:
    script = read_script('A="--lr 1"\nfor H in $HOSTS; do A="$A --x $H"; done\nmsrun a_vlm.py $A\n')
    assert script.options["lr"].values == ("1",)
    assert any("A is changed by a loop" in note for _, note in script.notes)
