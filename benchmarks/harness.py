"""What every benchmark needs at the clock: compile apart from run, contenders in turn, ratios within a round.

Times are compared only within one process, round by round: A B C A B C … A machine that slows down for a while
then slows all contenders, and the ratio taken within a round does not see it.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class BenchmarkError(Exception):
    """A benchmark that cannot give a result worth keeping; its text is for the user."""


class Compiled(NamedTuple):
    """A function compiled for its arguments.

    Attributes:
      call: no argument, runs the program on the arguments it was compiled for.
      jaxpr: the traced program.
      trace_seconds: tracing and lowering, in Python.
      compile_seconds: XLA; None where JAX keeps compiled programs on disk, and may have read this one.
      temporary_bytes: what XLA allocates beside arguments and results; None where the backend does not say.
      instructions: how many the compiled program has, those inside of fusions and loops included.
    """

    call: Callable[[], Any]
    jaxpr: Any
    trace_seconds: float
    compile_seconds: float | None
    temporary_bytes: int | None
    instructions: int

    @property
    def seconds(self) -> float | None:
        """Tracing, lowering and compiling."""
        return None if self.compile_seconds is None else self.trace_seconds + self.compile_seconds


def compile_cold(function: Callable, *arguments: Any) -> Compiled:
    """Trace and compile `function` for `arguments`, from cold caches: no contender profits from an earlier one.

    >>> float(compile_cold(lambda x: x + 1, 2.0).call())
    3.0
    """
    jax.clear_caches()
    start = time.perf_counter()
    traced = jax.jit(function).trace(*arguments)
    lowered = traced.lower()
    between = time.perf_counter()
    program = lowered.compile()
    end = time.perf_counter()
    memory = program.memory_analysis()
    return Compiled(
        call=lambda: program(*arguments),
        jaxpr=traced.jaxpr,
        trace_seconds=between - start,
        compile_seconds=None if keeps_programs() else end - between,
        temporary_bytes=None if memory is None else int(memory.temp_size_in_bytes),
        instructions=sum(" = " in line for line in program.as_text().splitlines()),
    )


def keeps_programs() -> bool:
    """Whether JAX keeps compiled programs on disk, which saves time on a machine where compiling takes most of it."""
    return bool(jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir)


SETTLING_SECONDS = 0.02


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, the contenders in turn, each of them settled first."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            _settle(call)
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _settle(call: Callable[[], Any]) -> None:
    """Run untimed, once or more: what the contender before has left would count against the next, in every round.

    That is threads that still spin, caches full of its own, and memory given back.
    """
    start = time.perf_counter()
    jax.block_until_ready(call())
    while time.perf_counter() - start < SETTLING_SECONDS:
        jax.block_until_ready(call())


QUANTILES = {"min": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}


def spread(values: Iterable[float]) -> dict[str, float]:
    """The least value and the quartiles.

    >>> spread([3.0, 1.0, 2.0])["median"]
    2.0
    """
    quantiles = np.quantile(list(values), list(QUANTILES.values()))
    return {name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)}


def ratios(seconds: Iterable[float], reference: Iterable[float]) -> dict[str, float]:
    """Spread of time / the reference's time in the same round.

    >>> ratios([2.0, 30.0], [1.0, 10.0])["median"]
    2.5
    """
    return spread(a / b for a, b in zip(seconds, reference, strict=True))


def over_fastest(seconds: Iterable[float], contenders: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """`ratios` to the one of the contenders that is fastest in the median.

    >>> fast, slow = ({"seconds": [s, s], "spread": spread([s, s])} for s in (1.0, 3.0))
    >>> over_fastest([2.0, 2.0], [slow, fast])["median"]
    2.0
    """
    fastest = min(contenders, key=lambda contender: contender["spread"]["median"])
    return ratios(seconds, fastest["seconds"])


def across(
    spreads: Iterable[Mapping[str, float]], combine: Callable[[Sequence[float]], float]
) -> dict[str, float]:
    """The spreads combined quantile by quantile: the mean of all medians, the least of all, and so on.

    >>> across([{"min": 1.0, "median": 2.0}, {"min": 0.5, "median": 4.0}], min)
    {'min': 0.5, 'median': 2.0}
    """
    spreads = list(spreads)
    return {name: combine([values[name] for values in spreads]) for name in spreads[0]}


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios: the inverse of the mean is the mean of the inverses.

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    return float(np.exp(np.mean(np.log(list(values)))))


def profile_round(calls: Mapping[str, Callable[[], Any]], folder: Path) -> None:
    """One round under `jax.profiler.trace`, each call under its name."""
    with jax.profiler.trace(str(folder)):
        for name, call in calls.items():
            with jax.profiler.TraceAnnotation(name):
                jax.block_until_ready(call())


def timed(
    calls: Mapping[str, Callable[[], Any]], reference: str, rounds: int, profile: Path | None = None
) -> dict[str, dict[str, Any]]:
    """What is recorded of a contender's time: seconds of each round, their spread, the ratio to the reference's.

    Args:
      calls: contenders by name.
      reference: the one that ratios are taken to.
      rounds: how many.
      profile: folder for a profile of one more round; None for no profile.
    """
    seconds = interleave(calls, rounds)
    if profile is not None:
        profile_round(calls, profile)
    return {
        name: {
            "seconds": times,
            "spread": spread(times),
            "ratio": ratios(times, seconds[reference]),
        }
        for name, times in seconds.items()
    }
