"""What every benchmark needs: compile apart from run, contenders in turn, a record of what ran where.

Times are compared only within one process, round by round: A B C A B C … A machine that slows down for a while
then slows all contenders, and the ratio taken within a round does not see it.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import rnn_jax


class BenchmarkError(Exception):
    """A benchmark that cannot give a result worth keeping; its text is for the user."""


class Settings(NamedTuple):
    """What a run was asked for.

    Attributes:
      preset: a key of the benchmark's `PRESETS`.
      dtype: "float32" or "float64".
      rounds: timed rounds, ≥ 1; None for the preset's own number.
      profile: folder for profiles of one more, untimed round of each case; None for no profile.
    """

    preset: str = "quick"
    dtype: str = "float32"
    rounds: int | None = None
    profile: Path | None = None


class Compiled(NamedTuple):
    """A function compiled for its arguments.

    Attributes:
      call: no argument, runs the program on the arguments it was compiled for.
      jaxpr: the traced program.
      trace_seconds: tracing and lowering, in Python.
      compile_seconds: XLA.
      temporary_bytes: what XLA allocates beside arguments and results; None where the backend does not say.
    """

    call: Callable[[], Any]
    jaxpr: Any
    trace_seconds: float
    compile_seconds: float
    temporary_bytes: int | None


def compile_cold(function: Callable, *arguments: Any) -> Compiled:
    """Trace and compile `function` for `arguments`, from cold caches: no contender profits from an earlier one."""
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
        compile_seconds=end - between,
        temporary_bytes=None if memory is None else int(memory.temp_size_in_bytes),
    )


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, the contenders in turn.

    A first round is not counted: it touches the memory that the others find ready.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            elapsed = time.perf_counter() - start
            if number:
                seconds[name].append(elapsed)
    return seconds


def spread(values: Iterable[float]) -> dict[str, float]:
    """The least value and the quartiles.

    >>> spread([3.0, 1.0, 2.0])["median"]
    2.0
    """
    values = list(values)
    lower, median, upper = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"min": min(values), "lower_quartile": lower, "median": median, "upper_quartile": upper}


def ratios(seconds: Iterable[float], reference: Iterable[float]) -> dict[str, float]:
    """Spread of time / the reference's time in the same round.

    >>> ratios([2.0, 30.0], [1.0, 10.0])["median"]
    2.5
    """
    return spread(a / b for a, b in zip(seconds, reference, strict=True))


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


def device() -> dict[str, Any]:
    """What the programs run on."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    """The model of the host's processor where Linux tells, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of Python, of this library and of the named packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "rnn_jax": rnn_jax.__version__}
    for package in ("jax", "jaxlib", "numpy", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def check_writable(folder: Path) -> None:
    """Raise unless files can be made in `folder`, which need not exist; leaves nothing behind.

    Permission bits do not tell (read-only and virtual file systems), so a folder is made and removed, in the
    nearest one that exists.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise BenchmarkError(
            f"cannot write to {folder}: {error.strerror}. Name a folder that you may write to, or one that can be made."
        ) from None


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` to `path`, all of it or nothing: a file beside it is filled, then renamed."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise
