"""The command line as a whole: help, unknown words, the debug switch."""

import gc

import pytest
from qvl_core.cli.app import CORE_COMMANDS, main, take_debug


def test_help_lists_every_command_of_this_package(qvl) -> None:
    result = qvl("--help")
    assert result.code == 0
    assert all(f"│ {name} " in result.out for name in CORE_COMMANDS)
    assert "Exit codes" in result.out


def test_no_words_at_all_show_the_help(qvl) -> None:
    assert qvl().code == 0
    assert qvl().out == qvl("--help").out


@pytest.mark.parametrize("command", CORE_COMMANDS)
def test_every_command_has_help(qvl, command: str) -> None:
    result = qvl(command, "--help")
    assert result.code == 0
    assert f"qvl {command}" in result.out


def test_the_options_of_each_command_are_those_of_the_design(qvl) -> None:
    # The options are a contract with scripts; whoever adds one changes this test on purpose.
    wanted = {
        "run": {"--set", "--dry-run", "--resume", "--reshard", "--accept-changes", "--node-rank", "--help"},
        "check": {"--set", "--format", "--help"},
        "show": {"--set", "--params", "--help"},
        "plan": {
            *("--set", "--devices", "--memory-gib", "--top", "--format", "--device", "--device-file"),
            *("--data-report", "--headroom", "--assumptions", "--help"),
        },
        "recipes": {"--help"},
        "schema": {"--help"},
        "migrate": {"--out", "--overwrite", "--format", "--help"},
        "doctor": {"--recipe", "--devices", "--json", "--help", "--bundle", "--compare"},
    }
    import typer
    from qvl_core.cli.app import build_app

    group = typer.main.get_command(build_app(CORE_COMMANDS))
    found = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        | {"--help"}
        for name, command in group.commands.items()
    }
    assert found == wanted


def test_version_names_the_package(qvl) -> None:
    result = qvl("--version")
    assert (result.code, result.out.split()[0]) == (0, "qvl-core")


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(qvl) -> None:
    result = qvl("chek")
    assert result.code == 2
    assert "'check'" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("words", [["run"], ["check", "--format", "xml", "a.toml"], ["run", "a.toml", "--nothing"]])
def test_wrong_usage_ends_with_2(qvl, words: list[str]) -> None:
    result = qvl(*words)
    assert result.code == 2
    assert "Usage: qvl" in result.err


def test_debug_may_stand_anywhere_before_a_double_dash() -> None:
    assert take_debug(["run", "a.toml", "--debug"]) == (["run", "a.toml"], True)
    assert take_debug(["--debug", "run"]) == (["run"], True)
    assert take_debug(["run", "--", "--debug"]) == (["run", "--", "--debug"], False)
    assert take_debug(["run"]) == (["run"], False)


def test_the_garbage_collector_is_on_again_afterwards(qvl) -> None:
    assert gc.isenabled()
    main(["check", "missing.toml"])
    assert gc.isenabled()
