"""Rules of the source that import-linter does not check: no autograd, no web in the engine, sizes, packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = sorted((ROOT / "engine").rglob("*.py"))
SERVICE = sorted((ROOT / "service").rglob("*.py"))
FORBIDDEN = ("torch.nn", "torch.autograd", "torch.func")
FORBIDDEN_NAMES = ("requires_grad", "requires_grad_", "functional")
WEB_AND_TERMINAL = {"fastapi", "starlette", "uvicorn", "pydantic", "typer", "rich"}
CODECS = {"imagecodecs", "pillow_heif", "tifffile"}
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400


def path_of(file):
    return file.relative_to(ROOT).as_posix()


def imports(tree):
    """Full names of everything that is imported, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def mentions(tree):
    """Everything that is imported, and every dotted name, bare name and keyword in the code."""
    yield from imports(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute():
                yield ast.unparse(node)
            case ast.Name():
                yield node.id
            case ast.keyword(arg=str(name)):
                yield name


def autograd_in(source):
    """The names in a source text that belong to torch's layers or to autograd."""
    names = set(mentions(ast.parse(source)))
    forbidden = {name for name in names if any(f"{name}.".startswith(f"{part}.") for part in FORBIDDEN)}
    return forbidden | {name for name in names if name.split(".")[-1] in FORBIDDEN_NAMES}


def packages_in(file):
    return {name.split(".")[0] for name in imports(ast.parse(file.read_text("utf-8")))}


@pytest.mark.parametrize("file", ENGINE + SERVICE, ids=path_of)
def test_engine_and_service_use_no_torch_layers_and_no_autograd(file):
    assert not autograd_in(file.read_text("utf-8"))


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
def test_the_autograd_check_finds_every_way_to_use_it(source):
    assert autograd_in(source)


@pytest.mark.parametrize("source", ["import torch\ntorch.nonzero(x)", "# torch.nn", "'torch.autograd'"])
def test_the_autograd_check_accepts_other_code(source):
    assert not autograd_in(source)


@pytest.mark.parametrize("file", ENGINE, ids=path_of)
def test_the_engine_uses_no_web_framework_and_no_terminal(file):
    assert not packages_in(file) & WEB_AND_TERMINAL


def test_only_imageio_uses_the_image_codecs():
    users = {file for file in ENGINE + SERVICE if packages_in(file) & CODECS}

    assert all(ROOT / "engine" / "imageio" in file.parents for file in users)


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
def test_the_fixed_files_are_in_place(entry):
    assert (ROOT / entry).is_file()


def test_every_folder_of_modules_is_a_package():
    # setuptools installs packages only.
    folders = {file.parent for file in ENGINE + SERVICE}

    assert not [path_of(folder) for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("file", ENGINE + SERVICE, ids=path_of)
def test_no_function_is_longer_than_a_screen(file):
    tree = ast.parse(file.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    assert not [f.name for f in functions if f.end_lineno - f.lineno + 1 > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("file", ENGINE + SERVICE, ids=path_of)
def test_no_module_is_longer_than_400_lines(file):
    lines = len(file.read_text("utf-8").splitlines())

    assert lines <= MAX_MODULE_LINES
