"""Lists of a launch script whose items are not known: neither is their number, nor what stands behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from qvl_core.migrate.migration import Migration
from qvl_core.migrate.shell_script import read_script

UNKNOWN = {
    "printed": "L=($(cat devices))\nX=${#L[@]}",
    "backquotes": "L=(`cat devices`)\nX=${#L[*]}",
    "split at commas": "L=(${ASCEND_RT_VISIBLE_DEVICES//,/ })\nX=${#L[@]}",
    "a variable": "L=($HOSTS)\nX=${#L[@]}",
    "read -ra": 'IFS=, read -ra L <<< "$DEVICES"\nX=${#L[@]}',
    "mapfile": "mapfile -t L < hosts\nX=${#L[@]}",
    "files": "L=(data/*.json)\nX=${#L[@]}",
    "in arithmetic": "L=($HOSTS)\nX=$((${#L[@]} * 8))",
    "copied": 'M=(a $HOSTS)\nL=("${M[@]}" b)\nX=${#L[@]}',
    "added to": "L=(a)\nL+=($HOSTS)\nX=${#L[@]}",
    "set behind": "L=($HOSTS)\nL[1]=a\nX=${#L[@]}",
    "first item": "L=($HOSTS)\nX=${L[0]}",
    "first item, without index": "L=($HOSTS)\nX=$L",
    "second item": "L=($HOSTS)\nX=${L[1]}",
    "last item": "L=(a $HOSTS b)\nX=${L[-1]}",
    "default of an item": "L=($HOSTS)\nX=${L[1]:-none}",
    "other text of an item": "L=($HOSTS)\nX=${L[1]:+some}",
    "arguments": 'f() { X=$#; }\nf "${L[@]}" 3',
    "arguments of the script": 'f() { X=$2; }\nf "$@" 3',
    "another shell": "bash -c 'msrun a_vlm.py --x $#' name $HOSTS 3",
}


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_the_number_of_items_that_are_not_known_is_not_known(text: str) -> None:
    script = read_script(f"{text}\nmsrun a_vlm.py --x $X\n")
    assert not script.options["x"].known, script.options["x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('L=("$HOST" b)\nX=${#L[@]}', "2"),
        ("L=(a $HOSTS)\nX=${L[0]}", "a"),
        ('L=("*.json" a)\nX=${#L[@]}', "2"),
        ("L=()\nX=${#L[@]}", "0"),
        ("L=(a)\nL+=(b)\nL+=('c d')\nX=${#L[@]}", "3"),
        ("L=(a b)\nL+=c\nX=${L[0]}", "ac"),
        ('f() { X=$#$2; }\nf "$UNKNOWN" 3', "23"),
        ('read WORD < f\nf() { X=$2; }\nf "$WORD" 3', "3"),
    ],
)
def test_items_that_are_known_or_quoted_are_counted(text: str, expected: str) -> None:
    assert read_script(text).variables["X"].text == expected


def test_a_condition_on_a_number_that_is_not_known_is_told() -> None:
    script = read_script("L=($HOSTS)\n[ ${#L[@]} -gt 1 ] && TP=4 || TP=1\nmsrun a_vlm.py --tp $TP\n")
    assert any("TP is set under a condition" in note for _, note in script.notes)


def test_rounds_over_items_that_are_not_known_are_not_counted() -> None:
    script = read_script('L=(*.json)\nfor F in "${L[@]}"; do G=$F; done\n')
    assert not script.variables["F"].known


def test_counts_of_devices_and_machines_that_are_not_known_are_told(
    change: Callable[[str, str, str], None], run: Callable[[], Migration]
) -> None:
    name = "finetune_qwen2_5_vl_7b.sh"
    change(name, "NPUS_PER_NODE=8", "D=(${ASCEND_RT_VISIBLE_DEVICES//,/ })\nNPUS_PER_NODE=${#D[@]}")
    change(name, "NNODES=1", "HOSTS=($(cat /etc/hosts.train))\nNNODES=${#HOSTS[@]}")
    said = str(run())
    assert "is not known: launch.devices_per_node" in said
    assert "NNODES is not known: launch.nodes" in said
