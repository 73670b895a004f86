"""The documents: the commands that they show exist, and the version has one source."""

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from engine.training.recipe import Recipe
from service import cli
from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("*/README.md"), ROOT / "weights" / "HISTORY.md"])
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE_COMMAND = re.compile(r"`(denoise [^`]+)`")
DENOISE = typer.main.get_command(cli.app)
UsageError = typer.BadParameter.__base__
RECIPE_KEYS = {field.name for field in dataclasses.fields(Recipe)}


def words_of(line):
    """The words of a line of shell. Operators such as | and && are words of their own; comments are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def commands_in(line):
    """The arguments of each `denoise` that a line of shell runs, without redirections."""
    simple, words = [], iter([*words_of(line), ";"])
    for word in words:
        if set(word) <= set("<>"):
            next(words)
        elif set(word) <= set(";&|()"):
            if simple and Path(simple[0]).name == "denoise":
                yield simple[1:]
            simple = []
        else:
            simple.append(word)


def shell_commands(text):
    """The arguments of each `denoise` in the shell blocks of a Markdown text."""
    for block in SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if "denoise" in line:
                yield from commands_in(line)


def resolve(args):
    """The command that arguments name, and what follows its name."""
    command, rest = DENOISE, list(args)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            raise UsageError(f"no command {rest[0]!r}")
        command = command.commands[rest.pop(0)]
    return command, rest


def parse(args):
    """Parses arguments as the command line does, without running the command. Raises UsageError."""
    command, rest = resolve(args)
    context = command.make_context(command.name, rest)
    for param in command.params:
        if "--set" in param.opts:
            unknown = {pair.partition("=")[0] for pair in context.params[param.name] or ()} - RECIPE_KEYS
            if unknown:
                raise UsageError(f"no values of a recipe: {sorted(unknown)}")


def flags_of(command):
    """Every flag that a command takes."""
    flags = {"--help", *(flag for param in command.params for flag in (*param.opts, *param.secondary_opts))}
    return flags | {f"--{key}" for key in RECIPE_KEYS} if "--set" in flags else flags


def documented(find):
    """Test parameters: what `find` finds in each document."""
    return [
        pytest.param(found, id=f"{file.relative_to(ROOT)}: {found}")
        for file in DOCUMENTS
        for found in find(file.read_text("utf-8"))
    ]


@pytest.mark.parametrize("args", documented(shell_commands))
def test_a_command_in_a_code_block_parses(args):
    parse(args)


@pytest.mark.parametrize("text", documented(INLINE_COMMAND.findall))
def test_a_command_in_a_sentence_has_flags_that_exist(text):
    command, rest = resolve(words_of(text)[1:])

    assert {word for word in rest if word.startswith("--")} <= flags_of(command)


def test_commands_are_found_among_operators_and_comments():
    line = 'cat "a b.jpg" | .venv/bin/denoise run - > clean.png && denoise models  # denoise no'

    assert list(commands_in(line)) == [["run", "-"], ["models"]]
    assert list(commands_in("docker run --name denoise image denoise serve")) == []


@pytest.mark.parametrize(
    "args", ["run a.png --nothing", "walk", "train paper -o a.safetensors --rate 1", "evaluate --limit many x"]
)
def test_a_command_that_does_not_exist_is_found(args):
    with pytest.raises(UsageError):
        parse(args.split())


def test_the_version_comes_from_pyproject_alone():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    app = create_app(Settings(model="photo-small"))

    with TestClient(app) as client:
        assert client.get("/health").json()["version"] == version
        assert client.get("/openapi.json").json()["info"]["version"] == version
    assert f"denoise {version}," in CliRunner().invoke(cli.app, ["--version"]).stdout
    assert f"## {version}" in (ROOT / "service" / "CHANGELOG.md").read_text("utf-8")


def test_the_python_code_in_readme_runs(tmp_path, monkeypatch):
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    monkeypatch.chdir(tmp_path)
    # tests/system/test_examples.py runs those that call the service.
    blocks = PYTHON_BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    [code] = (block for block in blocks if "://" not in block)

    names = {}
    exec(compile(code, "README.md", "exec"), names)

    assert (tmp_path / "cleaned.png").exists()
    assert names["clean"].shape == names["noisy"].shape
