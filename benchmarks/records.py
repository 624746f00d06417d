"""Records: what a benchmark measured and on what, as JSON that is written whole or not at all."""

import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

import rnn_jax
from benchmarks.harness import BenchmarkError, keeps_programs


def device() -> dict[str, Any]:
    """What the programs run on."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        # Busy neighbours cost a library more whose threads spin while they wait.
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "environment": {name: os.environ[name] for name in _TELLING if name in os.environ},
        "keeps_programs": keeps_programs(),
    }


_TELLING = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
"""What else decides how fast the contenders are."""


def cores() -> int:
    """How many this process may use: XLA takes as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def plain(value: Any) -> Any:
    """NamedTuples and mappings as dictionaries, tuples as lists: what comes back when JSON is read.

    >>> from benchmarks.workloads import Shape
    >>> plain({"tiny": (Shape(1, 2, 3, 4),)})
    {'tiny': [{'B': 1, 'T': 2, 'N': 3, 'D': 4}]}
    """
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


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
    """Write `record` to `path`, all of it or nothing."""
    write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, all of it or nothing: a file beside it is filled, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def read(path: Path) -> dict[str, Any]:
    """The record in a file.

    Raises:
      BenchmarkError: if the file cannot be read or is not a record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"cannot read {path}: {error}") from None
    if not (isinstance(record, dict) and {"benchmark", "device", "cases", "verdicts"} <= record.keys()):
        raise BenchmarkError(
            f"{path} is not the record of a benchmark. Name files that python -m benchmarks NAME wrote."
        )
    return record
