"""The command line: list experiments, run one, save it, print its table and verdicts.

It knows no experiment in particular, only what each of them offers: see `Experiment`.
"""

import argparse
import importlib
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
from experiments.verdicts import Verdict, summary


class Experiment(Protocol):
    """A module that asks one question, in the first line of its docstring.

    Attributes:
      PRESETS: configurations by name, "full" among them: instances of one frozen dataclass with a field `seed`,
        which raises ValueError for values out of range.
      run: `(config, key, progress) -> result`, pure; the result is a NamedTuple of arrays. `progress(steps, label,
        scale)` gives `steps` back one by one; each stands for `scale` updates.
      metrics: `(config, result) ->` one mapping a line of `metrics.jsonl`.
      verdicts: `(config, result) ->` a list of `Verdict`.
      table: `(config, result) ->` text of at most 100 columns.
      figures: `(config, result) ->` figures by file name.
    """

    PRESETS: Mapping[str, Any]
    run: Callable[..., Any]
    metrics: Callable[..., Iterable[Mapping[str, Any]]]
    verdicts: Callable[..., list[Verdict]]
    table: Callable[..., str]
    figures: Callable[..., dict[str, Figure]]


class UsageError(Exception):
    """A mistake on the command line; its text names the value and the remedy."""


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the caller, 130 when interrupted."""
    try:
        arguments, overrides = _parser().parse_known_args(argv)
        if arguments.command == "list":
            _reject(overrides, "list takes no arguments")
            return _list()
        return _run(arguments, overrides)
    except (UsageError, results.UnwritableError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse and tyro have printed what was wrong
        return stop.code if isinstance(stop.code, int) else 0


def load(name: str) -> Experiment:
    """The experiment of that name."""
    if name not in experiments.NAMES:
        raise UsageError(
            f"there is no experiment {name!r}; expected one of: {', '.join(experiments.NAMES)}. "
            "`python -m experiments list` says what they ask."
        )
    return importlib.import_module(f"experiments.{name}")  # type: ignore[return-value]


def question(experiment: Experiment) -> str:
    """The first line of its docstring."""
    return (experiment.__doc__ or "").strip().splitlines()[0]


def configuration(experiment: Experiment, name: str, preset: str, overrides: Sequence[str]) -> Any:
    """The preset with the overrides `--field value …` applied and checked."""
    if preset not in experiment.PRESETS:
        raise UsageError(
            f"--preset is {preset!r}; expected one of: {', '.join(experiment.PRESETS)}. full is the default."
        )
    default = experiment.PRESETS[preset]
    try:
        config, unknown = tyro.cli(
            type(default),
            prog=f"python -m experiments run {name}",
            description=f"{question(experiment)}\n\nBeside the fields below: --results DIR (default: results) and "
            f"--preset {{{','.join(experiment.PRESETS)}}} (default: full), which the fields then change.",
            args=list(overrides),
            default=default,
            return_unknown_args=True,
        )
    except ValueError as mistake:  # from the configuration's own checks
        raise UsageError(str(mistake)) from mistake
    _reject(unknown, f"`python -m experiments run {name} --help` lists the fields that can be set")
    return config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name and question of each experiment", allow_abbrev=False)
    # Without its own --help, which is the experiment's.
    run = commands.add_parser("run", help="run one", allow_abbrev=False, add_help=False)
    run.add_argument("name")
    run.add_argument("--results", type=Path, default=Path("results"))
    run.add_argument("--preset", default="full")
    return parser


def _reject(unknown: Sequence[str], remedy: str) -> None:
    if unknown:
        raise UsageError(f"unknown: {' '.join(unknown)}; {remedy}.")


def _list() -> int:
    for name in experiments.NAMES:
        print(f"{name:12} {question(load(name))}")
    return 0


def _run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    experiment = load(arguments.name)
    config = configuration(experiment, arguments.name, arguments.preset, overrides)
    with results.new_run(arguments.results, arguments.name) as staging:
        print(f"{arguments.name}: {question(experiment)}", flush=True)
        report = _compute_and_save(experiment, config, staging.partial)
    print(f"\n{report}\n{staging.path}")
    return 0


def _compute_and_save(experiment: Experiment, config: Any, folder: Path) -> str:
    """Everything of a run, into `folder`; returns what the terminal shows."""
    result = experiment.run(config, jax.random.key(config.seed), _progress)
    verdicts = experiment.verdicts(config, result)
    report = f"{experiment.table(config, result)}\n{summary(verdicts)}"
    results.save(
        folder,
        config=config,
        result=result,
        metrics=experiment.metrics(config, result),
        verdicts=verdicts,
        table=report,
        figures=experiment.figures(config, result),
    )
    return report


def _progress(steps: Iterable, label: str, scale: int) -> Iterable:
    """A bar in a terminal; elsewhere the label, when its turn comes."""
    if not sys.stderr.isatty():
        print(label, file=sys.stderr, flush=True)
        return steps
    return tqdm(steps, desc=f"{label:10}", unit=" updates", unit_scale=scale, dynamic_ncols=True)
