"""A question that several programs answer alike: checked equal, then timed in turn.

Shared by the benchmarks whose contenders are functions of the same arguments that give the same array.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, tables, verdicts
from benchmarks.runner import Case, Setup

HERE = "rnn_jax"


class Sizes(NamedTuple):
    """Time steps and hidden units."""

    T: int
    N: int


class Question(NamedTuple):
    """One question at one size.

    Attributes:
      arguments: what every contender is called with.
      contenders: functions of the arguments by name, this library's first; each gives the same array.
      target: the least time of each of the others over this library's that is claimed; the others are reported.
      tolerance: by which answers may differ, relative to the largest, in units of ε, at most 1 %.
    """

    arguments: tuple
    contenders: Mapping[str, Callable[..., jax.Array]]
    target: Mapping[str, float]
    tolerance: float


def cases(
    sizes_of: Mapping[str, Sequence[Sizes]],
    ask: Mapping[str, Callable[[Sizes, Setup], Question]],
    setup: Setup,
) -> Iterator[Case]:
    """Every question at every size."""
    for name, all_sizes in sizes_of.items():
        for sizes in all_sizes:
            question = ask[name](sizes, setup)
            asked = {"name": name, **sizes._asdict(), "target": dict(question.target)}
            folder = f"{name}-T{sizes.T}-N{sizes.N}"
            yield {**asked, "contenders": measure(question, setup, folder)}


def measure(question: Question, setup: Setup, title: str) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender."""
    programs = {name: harness.compile_cold(f, *question.arguments) for name, f in question.contenders.items()}
    answers = {name: program.call() for name, program in programs.items()}
    errors = check_equal(answers, question.tolerance, setup.dtype)
    calls = {name: program.call for name, program in programs.items()}
    measured = harness.timed(calls, HERE, setup.rounds, setup.folder(title))
    return {
        name: {
            **measured[name],
            "compile_seconds": program.seconds,
            "temporary_bytes": program.temporary_bytes,
            "relative_error": errors[name],
        }
        for name, program in programs.items()
    }


def check_equal(answers: Mapping[str, jax.Array], tolerance: float, dtype: str) -> dict[str, float]:
    """The largest difference of each answer from this library's, relative to its largest entry.

    Raises:
      BenchmarkError: if one exceeds the tolerance, in units of ε, or 1 %.
    """
    reference = np.asarray(answers[HERE], np.float64)
    largest = np.abs(reference).max()
    allowed = min(tolerance * float(jnp.finfo(dtype).eps), 1e-2)
    errors = {}
    for name, answer in answers.items():
        if answer.shape != reference.shape:
            raise harness.BenchmarkError(
                f"{name} answers with shape {answer.shape}; expected {reference.shape}."
            )
        errors[name] = float(np.abs(np.asarray(answer, np.float64) - reference).max() / largest)
        if not errors[name] <= allowed:
            raise harness.BenchmarkError(
                f"{name} and {HERE} differ by {errors[name]:.1e}, more than {allowed:.1e}; nothing is kept."
            )
    return errors


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Each of the others that a target is set for."""
    return [
        verdicts.at_least(
            f"{case['name']}, T = {case['T']}, N = {case['N']}: time of {name} over {HERE}",
            target,
            case["contenders"][name]["ratio"],
            rounds,
        )
        for case in cases
        for name, target in case["target"].items()
        if name in case["contenders"]
    ]


COLUMNS = (
    tables.entry("case", -10, "name"),
    tables.entry("T", 7),
    tables.entry("N", 4),
    tables.entry("contender", -15),
    tables.milliseconds("median ms", 9, "spread", "median"),
    tables.quartiles("quartiles ms", 17),
    tables.number("x here", 7, "ratio", "median"),
    tables.number("compile s", 9, "compile_seconds"),
    tables.number("temp MB", 8, "temporary_bytes", scale=1e-6, form="{:.1f}"),
)
LEGEND = ("x here   time over rnn_jax's, median over rounds", "temp     peak temporary memory")
