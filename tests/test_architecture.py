"""The shape of the package: imports run one way, everything public is documented by an executed example."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rnn_jax

PACKAGE = Path(rnn_jax.__file__).parent
ROOT = PACKAGE.parent

# A module imports from the tiers above it in this list (and, inside a package, from its neighbours).
TIERS = [
    ["types"],
    ["checks"],
    ["constraints", "initializers", "losses", "orthogonal", "tables"],
    ["cells", "products", "readout"],
    ["clipping", "graded", "unroll"],
    ["pullbacks", "jacobians"],
    ["sweeps"],
    ["bptt"],
    ["decay", "online", "recording", "spectrum", "streaming", "truncated"],
    ["flow", "regularizers"],
    ["drawing"],
    ["datasets", "plotting", "tasks"],
]
TIER = {name: level for level, names in enumerate(TIERS) for name in names}
MODULES = [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "rnn_jax.")]


def imported(path):
    """The modules of the package that a file imports, by their first name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "rnn_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rnn_jax."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rnn_jax."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        assert not list(imported(path)), "the package's __init__ holds a docstring and a version"
        return
    for name in imported(path):
        if path.parent != PACKAGE and name == own:
            continue
        assert TIER[name] < TIER[own], f"{own} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "name",
    [
        "unroll",
        "pullbacks",
        "sweeps",
        "bptt",
        "truncated",
        "online",
        "jacobians",
        "products",
        "streaming",
        "graded",
        "orthogonal",
        "spectrum",
        "decay",
        "flow",
        "regularizers",
    ],
)
def test_algorithms_know_no_particular_cell(name):
    assert "cells" not in set(imported(PACKAGE / f"{name}.py"))


def test_the_package_says_what_each_module_is_for():
    for name in TIER:
        assert f"    {name} " in rnn_jax.__doc__ or name == "checks"


def test_importing_everything_loads_no_heavy_neighbour():
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {MODULES}]; "
        "print({'flax', 'orbax', 'matplotlib', 'torch', 'sklearn', 'music21', 'sktime'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


def test_numerics_neither_jit_nor_call_the_host():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"jit", "pure_callback", "io_callback"}, f"{path}: {node.attr}"


def public_functions():
    for name in MODULES:
        module = importlib.import_module(name)
        for attribute, function in vars(module).items():
            if inspect.isfunction(getattr(function, "__wrapped__", function)) and not attribute.startswith(
                "_"
            ):
                function = getattr(function, "__wrapped__", function)
                if function.__module__ == name:
                    yield pytest.param(function, id=f"{name.removeprefix('rnn_jax.')}.{attribute}")


INTERNAL = {"drawing", "structure", "arguments", "valid", "where_valid"}
"""Shared between modules of the package, but not for users: a docstring, no example."""


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_functions_have_a_docstring_with_an_executed_example(function):
    assert function.__doc__
    own = function.__module__.split(".")[-1]
    if own in INTERNAL or function.__name__ in INTERNAL or function.__name__.startswith("init_"):
        return
    assert doctest.DocTestParser().get_examples(function.__doc__), f"{function.__name__} has no example"
