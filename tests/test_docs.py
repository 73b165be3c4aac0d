"""The pages are true: commands parse, recipes load, generated tables are fresh, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from qvl_core import load_recipe
from qvl_core.cli import plugins
from qvl_core.cli.app import CORE_COMMANDS, build_app
from qvl_core.errors import RecipeError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import make_environment_reference  # noqa: E402 (a script beside the packages)
import make_recipe_reference  # noqa: E402 (a script beside the packages)

READMES = ("README.md", "README.zh-CN.md")
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "packages/*/README.md", "recipes/*.md", "recipes/tiny/*/README.md")
    for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
COMMENT = re.compile(r"(?m)\s+#.*$")
# Pages may name these before they are there, as coming.
COMING = {("convert", "reshard")}


@pytest.fixture(autouse=True)
def project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    # Paths in recipes are relative to where commands run: the project's root.
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def qvl() -> Any:
    """Give the whole command, with the commands of all packages."""
    loaded = plugins.load_plugins(CORE_COMMANDS, None, debug=False)
    return typer.main.get_command(build_app(CORE_COMMANDS, loaded.plugins))


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[str]:
    return [body for found, body in BLOCK.findall(read(page)) if language in (None, found)]


def command_lines(page: str, name: str) -> list[list[str]]:
    """Give the words after `name` of every command line in the page's shell blocks, comments and redirections cut."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, "bash") for line in block.splitlines()]
    return [words[1 : words.index(">") if ">" in words else None] for words in lines if words[:1] == [name]]


def find_command(root: Any, words: list[str]) -> tuple[Any, list[str]]:
    """Give the command that the words start with, and the rest of them."""
    command = root
    while hasattr(command, "commands"):
        assert set(words[:1]) & set(command.commands), f"there is no command qvl {' '.join(words)}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def settings(words: list[str]) -> list[str]:
    return [value for option, value in pairwise(words) if option == "--set"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_shell_blocks_parse(page: str, qvl: Any) -> None:
    for words in command_lines(page, "qvl"):
        command, rest = find_command(qvl, words)
        command.make_context(command.name, list(rest))


def test_a_command_that_does_not_parse_is_noticed(qvl: Any) -> None:
    with pytest.raises(AssertionError, match="no command qvl frobnicate"):
        find_command(qvl, ["frobnicate"])
    command, rest = find_command(qvl, ["check", "a.toml", "--frobnicate"])
    with pytest.raises(Exception, match="frobnicate"):
        command.make_context(command.name, list(rest))


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_in_the_text_exist(page: str, qvl: Any) -> None:
    for span in INLINE.findall(BLOCK.sub("", read(page))):
        words = span.split()
        if words[:1] != ["qvl"] or len(words) == 1 or tuple(words[1:3]) in COMING or words[1] not in qvl.commands:
            continue
        command = qvl.commands[words[1]]
        if hasattr(command, "commands") and len(words) > 2:
            assert words[2] in command.commands, f"{page}: {span}"
            command = command.commands[words[2]]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "--debug"}
        stated = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert stated <= options, f"{page}: {span}"


@pytest.mark.parametrize("page", READMES)
def test_readme_names_no_command_that_is_not_there(page: str, qvl: Any) -> None:
    spans = [span.split() for span in INLINE.findall(BLOCK.sub("", read(page)))]
    named = {words[1] for words in spans if words[0] == "qvl" and len(words) > 1}
    assert {"check", "show", "run"} <= named <= set(qvl.commands)


@pytest.mark.parametrize("page", PAGES)
def test_recipes_in_shell_blocks_load_with_their_settings(page: str) -> None:
    for words in command_lines(page, "qvl"):
        shown = [word for word in words if re.fullmatch(r"recipes/\w+\.toml", word)]
        for recipe in shown:
            load_recipe(recipe, settings(words))


@pytest.mark.parametrize("page", PAGES)
def test_sessions_in_shell_blocks_exist(page: str) -> None:
    sessions = read("noxfile.py")
    defined = {*re.findall(r"^def (\w+)\(session", sessions, re.MULTILINE), *re.findall(r'name="([\w-]+)"', sessions)}
    for words in command_lines(page, "nox"):
        if "-s" in words:
            assert words[words.index("-s") + 1] in defined


def test_both_readmes_show_the_same_commands_and_files() -> None:
    english, chinese = ([(kind, COMMENT.sub("", body)) for kind, body in BLOCK.findall(read(page))] for page in READMES)
    assert english == chinese


def test_both_readmes_have_the_same_headings_tables_and_links() -> None:
    def skeleton(page: str) -> tuple[list[str], int, list[str]]:
        text = BLOCK.sub("", read(page))
        links = [link for link in LINK.findall(text) if not link.startswith("README")]
        return re.findall(r"^#+", text, re.MULTILINE), len(re.findall(r"^\|", text, re.MULTILINE)), links

    assert skeleton(READMES[0]) == skeleton(READMES[1])


def test_the_first_block_of_the_readme_is_the_two_commands() -> None:
    lines = [line.split("#")[0].strip() for line in blocks("README.md", "bash")[0].splitlines()]
    assert lines == ["pip install nox", "nox -s quickstart", "nox -s tests"]


@pytest.mark.parametrize("page", ["README.md", "recipes/README.md"])
def test_shown_recipe_is_one(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_recipe(tmp_path, monkeypatch, blocks(page, "toml")[0])
    assert load_recipe(path).warnings == ()


def test_shown_error_is_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, shown = blocks("README.md", "toml")[0], blocks("README.md", "text")[0]
    lines = recipe.splitlines()
    assert lines[10] == "text_stages = [1, 10, 10, 7]"
    lines[10] = lines[10].replace("7", "6")
    path = own_recipe(tmp_path, monkeypatch, "\n".join(lines))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert shown == f"$ qvl check {path}\n{error.value}\n"


def own_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """Write a recipe as somebody else's repository would hold it, with a copy of the bases beside it."""
    shutil.copytree(ROOT / "recipes" / "base", folder / "recipes" / "base")
    (folder / "recipes" / "my_7b.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return "recipes/my_7b.toml"


def test_reference_of_keys_is_up_to_date() -> None:
    page = read("docs/recipe.md")
    assert make_recipe_reference.with_reference(page) == page, "run python tools/make_recipe_reference.py"


def test_a_stale_reference_is_noticed() -> None:
    page = read("docs/recipe.md")
    stale = page.replace("| `tp` | integer 1 to 1024 |", "| `tp` | integer 1 to 8 |")
    assert stale != page
    assert make_recipe_reference.with_reference(stale) == page


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_exist(page: str) -> None:
    for link in LINK.findall(BLOCK.sub("", read(page))):
        assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


@pytest.mark.parametrize("package", ["core", "convert", "data", "train", "eval"])
def test_changelog_says_what_is_new(package: str) -> None:
    unreleased = read(f"packages/qvl-{package}/CHANGELOG.md").partition("## Unreleased")[2]
    assert re.search(r"^- \S", unreleased, re.MULTILINE)


def test_environment_variable_tables_are_fresh() -> None:
    page = read("docs/environment.md")
    assert make_environment_reference.with_reference(page) == page
