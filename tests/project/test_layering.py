"""The rules of the house, read from its source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = sorted((ROOT / "engine").rglob("*.py"))
SERVICE = sorted((ROOT / "service").rglob("*.py"))
FORBIDDEN = ("torch.nn", "torch.autograd", "torch.func")


def name_of(file):
    return str(file.relative_to(ROOT))


def imports(tree):
    """Every module and every name in it that is imported, at any depth of the file, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def mentions(tree):
    """What is imported, every dotted name as it is written, and every keyword and bare name."""
    yield from imports(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute():
                yield ast.unparse(node)
            case ast.Name():
                yield node.id
            case ast.keyword(arg=str(name)):
                yield name


def breaches(source):
    """Of a file: what the engine and the service must do without."""
    dotted = {name for name in mentions(ast.parse(source)) if name}
    forbidden = {name for name in dotted if any(f"{name}.".startswith(f"{part}.") for part in FORBIDDEN)}
    return forbidden | {
        n for n in dotted if n.split(".")[-1] in ("requires_grad", "requires_grad_", "functional")
    }


def packages(file):
    return {name.split(".")[0] for name in imports(ast.parse(file.read_text("utf-8")))}


@pytest.mark.parametrize("file", ENGINE + SERVICE, ids=name_of)
def test_no_gradient_and_no_layer_is_borrowed(file):
    assert not breaches(file.read_text("utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn",
        "import torch.nn.functional as F",
        "from torch import nn",
        "from torch.nn import functional",
        "from torch.autograd import grad",
        "def f():\n    import torch.autograd",
        "import torch\ny = torch.nn.functional.relu(x)",
        "import torch\nx = torch.zeros(3, requires_grad=True)",
        "x.requires_grad = True",
        "x.requires_grad_()",
    ],
)
def test_the_rule_finds_what_it_forbids(source):
    assert breaches(source)


@pytest.mark.parametrize("source", ["import torch\ntorch.nonzero(x)", "# torch.nn", "'torch.autograd'"])
def test_the_rule_lets_the_rest_be(source):
    assert not breaches(source)


@pytest.mark.parametrize("file", ENGINE, ids=name_of)
def test_the_engine_knows_no_web_server_and_no_terminal(file):
    assert not packages(file) & {"service", "fastapi", "starlette", "uvicorn", "pydantic", "typer", "rich"}


def test_only_imageio_knows_the_image_codecs():
    codecs = {"imagecodecs", "pillow_heif", "tifffile"}

    knowing = {file for file in ENGINE + SERVICE if packages(file) & codecs}

    assert all(ROOT / "engine" / "imageio" in file.parents for file in knowing)


@pytest.mark.parametrize(
    "entry",
    [
        "README.md",
        "pyproject.toml",
        "service/app.py",
        "engine/job.py",
        "weights/README.md",
        "tests/project/test_layering.py",
        "Dockerfile",
        "LICENSE",
        ".gitignore",
        ".ci/run",
    ],
)
def test_what_the_user_fixed_is_where_it_belongs(entry):
    assert (ROOT / entry).is_file()


def test_every_folder_of_modules_is_a_package_which_an_installation_brings():
    folders = {file.parent for file in ENGINE + SERVICE}

    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("file", ENGINE + SERVICE, ids=name_of)
def test_no_function_is_longer_than_a_screen(file):
    functions = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.FunctionDef)]

    assert not [f.name for f in functions if f.end_lineno - f.lineno >= 60]
