"""Random launch scripts: loops, functions, conditions, eval, subshells, expansions. Bash says what they start."""

from __future__ import annotations

import random
from collections.abc import Callable

NAMES = "ABCDEF"
FILES = {
    "common.sh": "# shared\nE=5\nexport F=$E\nB=${B:-44}\n",
    "hosts": "10.0.0.1 slots=8\n10.0.0.2\n10.0.0.3\n",
}
_LAUNCH = (
    "msrun --w 1 pretrain_vlm.py "
    + " ".join(f'--{name.lower()} "${name}"' for name in NAMES)
    + ' --l "${L[@]}" --n "$#" --u $A $B'
)


class Script:
    """Writes one script. `strange` adds conditions that only running something would tell."""

    def __init__(self, seed: int, *, strange: bool) -> None:
        self._random = random.Random(seed)
        self._strange = strange
        self._depth = 0
        self._functions: list[str] = []
        self._named = 0
        self._in_function = False
        self._loops = 0

    def text(self) -> str:
        """Give the script: it starts `msrun` once, whatever happens."""
        start = "".join(f"{name}={self._number()}\n" for name in NAMES) + 'L=(l1 l2)\nset -- p1 "p 2"\n'
        body = "".join(f"{self._command()}\n" for _ in range(self._random.randint(3, 9)))
        after = "".join(f"{self._command()}\n" for _ in range(self._random.randint(0, 2)))
        head = "#!/bin/bash\n" + ("set -a\n" if self._random.random() < 0.1 else "")
        return f"{head}{start}{body}{self._launch()}\n{after}"

    def _launch(self) -> str:
        ways = (
            _LAUNCH,
            f"run() {{\n  {_LAUNCH} 2>&1 | tee /dev/null\n}}\nrun {self._word()} z",
            f"for A in {self._number()} 5; do\n{_LAUNCH}\ndone",
            f"CMD='{_LAUNCH}'\neval \"$CMD\"",
            f"( A=3; {_LAUNCH} )",
            f"if {self._condition()}; then\n  {_LAUNCH}\nelse\n  B=9\n  {_LAUNCH}\nfi",
            f"while true; do {_LAUNCH} && break; done",
            'ARGS="--a $A --b $B \\\n  --c ${C:-1} \\\n"\n' + _LAUNCH.replace("--u $A $B", "$ARGS"),
            f"SEEN=$A {_LAUNCH}",
        )
        return self._random.choice(ways)

    def _number(self) -> str:
        return self._random.choice(("0", "1", "2", "3", "4", "7", "8", "12", "16"))

    def _name(self) -> str:
        return self._random.choice(NAMES)

    def _used(self) -> str:
        name = self._name()
        signs = ("", "", "", ":-3", ":+x", "-d", "%?", "#?", "%%[0-9]*", "##*/", "/1/2", "//a/b", ":0:2", "^^")
        return self._random.choice(
            (f"${name}", f"${{{name}{self._random.choice(signs)}}}", f"${{#{name}}}", "${L[0]}", "${#L[@]}", "${L[@]}")
        )

    def _sum(self, depth: int = 2) -> str:
        if depth == 0 or self._random.random() < 0.3:
            return self._random.choice((self._number(), self._name(), f"${self._name()}"))
        sign = self._random.choice(("+", "-", "*", ">", "<", "==", "&&", "?"))
        if sign == "?":
            return f"({self._sum(depth - 1)} > 2 ? {self._sum(depth - 1)} : {self._sum(depth - 1)})"
        return f"({self._sum(depth - 1)} {sign} {self._sum(depth - 1)})"

    def _word(self) -> str:
        used = self._used()
        plain = (self._number(), "ab/c1", "'a b'", "a\\ b", '""', '"$1"', '"$@"', '"$#"', "{1..3}", "a{x,y}")
        return self._random.choice((*plain, f'"{used}"', used, f"x{used}", f'"p {used} q"', f"$(({self._sum()}))"))

    def _value(self) -> str:
        used = self._used()
        printed = ("$(cat hosts | wc -l)", "$(head -n1 hosts | awk '{print $1;}')", "$(wc -l < ./hosts)")
        made = (f"$(({self._sum()}))", f"$(echo {used} z)", f"`expr {self._number()} + {self._number()}`")
        return self._random.choice(
            (*(self._number() for _ in range(3)), f'"{used}"', used, f'"a {used} \\\n b"', "'q $A'", *printed, *made)
        )

    def _condition(self) -> str:
        name, number = self._name(), self._number()
        if self._strange and self._random.random() < 0.4:
            return self._random.choice(("[ -f /bin/sh ]", "[ -d /nope ]", "grep -q x hosts", '[ -n "$HOME" ]'))
        return self._random.choice(
            (
                *(
                    f'[ "${name}" -gt {number} ]',
                    f'[ -z "${{{name}}}" ]',
                    f'[ "${name}" = "{number}" ]',
                    "[ $# -gt 1 ]",
                ),
                *(f"[[ ${name} == *1* ]]", f'[[ "${name}" != 1 && -n "${name}" ]]', f"(( {self._sum()} ))"),
                *("true", "false", f'! [ "${name}" = 1 ]', f"[[ ${name} -ge 2 || ( 1 -eq 1 ) ]]"),
            )
        )

    def _some(self) -> str:
        return "".join(f"{self._command()}\n" for _ in range(self._random.randint(1, 3)))

    def _command(self) -> str:
        self._depth += 1
        simple: tuple[Callable[[], str], ...] = (self._assign, self._assign, self._other)
        deep: tuple[Callable[[], str], ...] = (
            self._branch,
            self._case,
            self._loop,
            self._function,
            self._grouped,
            self._told,
        )
        made = self._random.choice(simple if self._depth > 3 else (*simple, *deep))()
        self._depth -= 1
        return made

    def _assign(self) -> str:
        name = self._name()
        return self._random.choice(
            (
                *(f"{name}={self._value()}", f"{name}={self._value()}  # not $A", f"export {name}={self._value()}"),
                *(f"{name}+={self._number()}", f"L=({self._word()} {self._word()} # no\n {self._word()})"),
                *(f"L+=({self._word()})", f"(( {name} {self._random.choice(('=', '+=', '*='))} {self._sum()} ))"),
                *(f"let {name}={self._number()}+1", f": ${{{name}:={self._number()}}}", f"unset {name}"),
                *(f"declare {name}={self._value()}", f"{self._condition()} && {name}={self._value()} || {name}=6"),
            )
        )

    def _other(self) -> str:
        if self._loops and self._random.random() < 0.3:
            return f'[ "${self._name()}" = 1 ] && {self._random.choice(("break", "continue"))}'
        if self._in_function and self._random.random() < 0.2:
            return "return"
        called = self._random.choice(self._functions) if self._functions else ":"
        return self._random.choice(
            (
                *(f"{called} {self._word()} {self._word()}{end}" for end in ("", " > /dev/null", " | cat")),
                *(f"set -- {self._word()} {self._word()}", "source ./common.sh", "A=55 B=66 true", "# it's $( no"),
            )
        )

    def _told(self) -> str:
        name = self._name()
        return self._random.choice(
            (
                *(f"eval '{name}={self._number()}'", f'CMD="{name}={self._number()}; A=4"\neval "$CMD"'),
                *(f"bash -c 'A=77; B=$1' x {self._number()}", "cat > /dev/null <<EOF\nA=99\nif\nEOF"),
            )
        )

    def _branch(self) -> str:
        text = f"if {self._condition()}; then\n{self._some()}"
        text += f"elif {self._condition()}; then\n{self._some()}" if self._random.random() < 0.3 else ""
        text += f"else\n{self._some()}" if self._random.random() < 0.6 else ""
        return f"{text}fi"

    def _case(self) -> str:
        return (
            f'case "{self._used()}" in\n1|2) {self._command()}\n;;\n*a*)\n{self._some()};;\n("") :;;\n'
            f"*) {self._command()}\nesac"
        )

    def _loop(self) -> str:
        self._loops += 1
        some, count = self._some(), f"k{self._random.randint(0, 10**6)}"
        self._loops -= 1
        limit = self._random.randint(0, 3)
        return self._random.choice(
            (
                f"for {self._name()} in {self._word()} {self._word()} {self._word()}; do\n{some}done",
                f"for (({count}=0; {count}<{limit}; {count}++)); do\n{some}done",
                f"{count}=0\nwhile [ ${count} -lt {limit} ]; do\n{count}=$(({count}+1))\n{some}done",
                f"{count}=0\nuntil (( {count} >= {limit} )); do {count}=$(({count}+1))\n{some}done",
            )
        )

    def _function(self) -> str:
        # A name of its own: a function that calls itself would go on for ever.
        self._named += 1
        name, loops, inside = f"f{self._named}", self._loops, self._in_function
        self._loops, self._in_function = 0, True
        body = self._random.choice(("", f"local {self._name()}={self._value()}\n")) + self._some()
        self._loops, self._in_function = loops, inside
        self._functions.append(name)
        return f"{self._random.choice((f'{name}() {{', f'function {name} {{'))}\n{body}}}"

    def _grouped(self) -> str:
        loops, self._loops = self._loops, 0
        text = self._random.choice(
            (f"( {self._some()})", f"{{ {self._some()}}} > /dev/null", f"{{ {self._some()}}} | cat")
        )
        self._loops = loops
        return text
