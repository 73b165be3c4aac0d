"""What a launch script says: its variables, what it exports, and the options of the program that it starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from qvl_core.migrate.script_facts import Script, Variable
from qvl_core.migrate.shell_flow import Flow
from qvl_core.migrate.shell_options import choose_start, read_command, started
from qvl_core.migrate.shell_state import Start, State
from qvl_core.migrate.shell_text import Text

_NODES = re.compile(r"#SBATCH\s+(?:--nodes[=\s]\s*|-N\s*)(\d{1,5})\s*(?:#|\Z)")


def read_script(text: str, beside: Callable[[str], str | None] = lambda name: None) -> Script:
    """Read a script. Nothing of it is executed, and nothing of this process's environment is looked at.

    `beside` gives the text of a file in the script's folder, by its name without folder; None where it is not there.
    Files that are sourced and host files are read so.
    """
    state = State()
    _submit(text, state)
    flow = Flow(text, state, beside)
    flow.run()
    _uncalled(flow, state)
    script = state.script
    start = choose_start(state.starts, script.notes)
    if start is not None and started(start.words):
        _as_it_was(script, start)
    found = read_command(start.words if start else _unstarted(script))
    script.program = found.program
    script.notes += found.notes
    for option in found.options:
        before = script.options.get(option.name)
        if before is not None and before.values != option.values:
            texts = (" ".join(before.values), " ".join(option.values))
            script.repeated.append((f"--{option.name}", before.line, texts[0], option.line, texts[1]))
        script.options[option.name] = option
    script.notes = sorted(dict.fromkeys(script.notes))
    script.repeated = list(dict.fromkeys(script.repeated))
    return script


def _uncalled(flow: Flow, state: State) -> None:
    """Read the function that starts the program where nothing that is known calls it: `"$@"` at a script's end."""
    script = state.script
    for name, function in list(state.functions.items()):
        if any(started(start.words) for start in state.starts):
            return
        held, counts = state.fork(), (len(state.starts), len(script.notes), len(script.repeated))
        told = f"{name}, a function, is called by nothing that is known: it is read as if it were"
        state.leaving, state.parameters = "", None
        state.within.append((function.line, told))
        flow.run_function(function)
        state.within.pop()
        if not any(started(start.words) for start in state.starts):
            # It has no part in the start: as if it had not been read.
            state.join(held)
            del state.starts[counts[0] :], script.notes[counts[1] :], script.repeated[counts[2] :]


def _submit(text: str, state: State) -> None:
    """Set what SLURM tells a script of its machines, where the script asks for a number of them."""
    for number, line in enumerate(text.splitlines()[:200], 1):
        if found := _NODES.match(line):
            for name in ("SLURM_NNODES", "SLURM_JOB_NUM_NODES"):
                count = Text(found[1], (number,) * len(found[1]))
                state.script.variables[name] = Variable(texts=(count,), line=number)


def _as_it_was(script: Script, start: Start) -> None:
    """Let variables be those of the moment at which the program was started."""
    then = {**start.variables, **start.given}
    for name, variable in script.variables.items():
        if name not in then and variable.exported:
            script.notes.append((variable.line, f"{name} is exported after the program has started: it never saw it"))
            script.variables[name] = replace(variable, exported=False)
    script.variables |= then
    if start.folder is not None:
        line, words = start.folder
        script.notes.append((line, f"{words}: relative paths start there, so run qvl there"))
    del script.repeated[start.repeated :]
    # What is set once the program has started concerns it no more: the shipped scripts work speeds out at their end.
    later = script.notes[start.noted :]
    script.notes[start.noted :] = [note for note in later if "under a condition" not in note[1]]


def _unstarted(script: Script) -> list[Text]:
    """Give what the variables named *_ARGS hold, where the script starts nothing that we can see."""
    held = [variable for name, variable in script.variables.items() if name.endswith(("_ARGS", "_ARGUMENTS"))]
    if held:
        remark = "no options of a command that starts the program were found; those of the *_ARGS variables are taken"
        script.notes.append((held[0].line, remark))
    return [word for variable in held for text in variable.texts for word in text.words()]
