"""The command line: `python -m experiments list`, `python -m experiments run NAME [--preset P] [--results DIR] …`.

Every field of the experiment's configuration is an option. What a user can get wrong (name, option, value,
folder) is found before anything is computed, said in one line, and ends with exit code 2.
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

import experiments
from experiments import results


class Experiment(Protocol):
    """What a module or package in `experiments` has, with its question as the first line of its docstring.

    Attributes:
      PRESETS: configurations by name, the default one first: frozen dataclasses with a `seed` whose
        `__post_init__` raises `ValueError` for what cannot be run.
    """

    PRESETS: Mapping[str, Any]

    def run(self, config: Any, key: jax.Array, progress: Callable[[Iterable, str, int], Iterable]) -> Any:
        """Compute, and return a tree of arrays."""

    def metrics(self, config: Any, result: Any) -> Iterable[Mapping[str, Any]]:
        """Numbers along the run, a mapping a line."""

    def verdicts(self, config: Any, result: Any) -> list:
        """The claims, each with what was measured and its negative control."""

    def table(self, config: Any, result: Any, verdicts: list) -> str:
        """What to print: at most 100 columns."""

    def figures(self, config: Any, result: Any) -> Mapping[str, Figure]:
        """Figures by file name."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=experiments.__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names and questions")
    run = commands.add_parser("run", help="run one experiment", add_help=False)
    run.add_argument("name", nargs="?", default="")
    run.add_argument("--preset")
    run.add_argument("--results", type=Path, default=Path("results"))
    options, overrides = parser.parse_known_args(arguments)
    try:
        if options.command == "list":
            if overrides:
                raise ValueError(f"list takes no options; got {' '.join(overrides)}.")
            print("\n".join(f"{name:10} {question(find(name))}" for name in experiments.NAMES))
        else:
            execute(options.name, options.preset, options.results, overrides)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


def execute(name: str, preset: str | None, folder: Path, overrides: Sequence[str]) -> Path:
    """Run one experiment, print its table, and return the folder of the run.

    Raises:
      ValueError: an unknown name, preset, option or value, or a folder that cannot be written to.
    """
    experiment = find(name)
    config = configure(experiment, name, preset, overrides)
    results.require_writable(folder / name)
    print(question(experiment))
    result = experiment.run(config, jax.random.key(config.seed), _progress)
    verdicts = experiment.verdicts(config, result)
    table = experiment.table(config, result, verdicts)
    print(table)
    run = results.save(
        folder / name,
        config,
        result,
        metrics=experiment.metrics(config, result),
        verdicts=verdicts,
        table=table,
        figures=experiment.figures(config, result),
    )
    print(f"\nfigures, arrays, verdicts and versions: {run}")
    return run


def find(name: str) -> Any:
    """The experiment of that name."""
    if name not in experiments.NAMES:
        raise ValueError(f"unknown experiment {name!r}; there is {', '.join(experiments.NAMES)}.")
    return importlib.import_module(f"experiments.{name}")


def question(experiment: Any) -> str:
    """The first line of its docstring."""
    return experiment.__doc__.strip().splitlines()[0]


def configure(experiment: Any, name: str, preset: str | None, overrides: Sequence[str]) -> Any:
    """The configuration: a preset with the overrides of the command line."""
    presets = experiment.PRESETS
    chosen = next(iter(presets)) if preset is None else preset
    if chosen not in presets:
        raise ValueError(f"unknown preset {chosen!r}; {name} has {', '.join(presets)}.")
    default = presets[chosen]
    fields = {field.name for field in dataclasses.fields(default)}
    for option in overrides:
        given = option.removeprefix("--").partition("=")[0].replace("-", "_")
        if option.startswith("--") and given not in fields | {"help"}:
            raise ValueError(
                f"unknown option {option}; {name} has " + ", ".join(sorted(map(_flag, fields))) + "."
            )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                type(default), args=list(overrides), default=default, prog=f"python -m experiments run {name}"
            )
    except SystemExit as error:
        if not error.code:  # --help was asked for, and has been printed
            raise
        # tyro draws a box around what was wrong.
        text = " ".join(complaint.getvalue().translate(dict.fromkeys(map(ord, "│─╭╮╰╯"), " ")).split())
        raise ValueError(f"{' '.join(overrides)}: {text}") from None


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _progress(steps: Iterable, label: str, scale: int) -> Iterable:
    """A bar for a loop each of whose steps stands for `scale` updates."""
    return tqdm(list(steps), desc=f"{label:12}", unit=" updates", unit_scale=scale, leave=False)
