"""A run on disk: `results/NAME/<run>/`, complete or absent.

    config.json     every field of the configuration
    versions.json   Python, libraries, device, seed
    arrays.npz      the result, one array a name: `before.log_norms`, …
    metrics.jsonl   one JSON object a line
    verdicts.json   a list of `verdicts.Verdict`
    table.txt       what the terminal showed
    figures/        PNG

A run is written into a hidden sibling folder and renamed when all of it is there.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from matplotlib.figure import Figure

import rnn_jax
from experiments.verdicts import Interval, Verdict

ConfigT = TypeVar("ConfigT")


class UnwritableError(Exception):
    """The results cannot be written where they should be; the text says why and what to do."""

    def __init__(self, folder: Path, failure: OSError):
        reason = failure.strerror or str(failure)
        super().__init__(
            f"cannot write to {folder}: {reason}. Name a folder that can be written with --results DIR."
        )


class Staging:
    """A folder that will be a run when all is written.

    Attributes:
      partial: where to write.
      path: where the run is, once it is there.
    """

    def __init__(self, partial: Path):
        self.partial = partial
        self.path: Path | None = None


@contextlib.contextmanager
def new_run(results: Path, name: str) -> Iterator[Staging]:
    """A folder to write a run into, which becomes `results/name/<run>` on leaving, or vanishes on an exception.

    Raises:
      UnwritableError: at once if the folder cannot be made, before anything is computed.
    """
    parent = Path(results) / name
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    staging = Staging(parent / f".{stamp}.{os.getpid()}")
    try:
        try:
            staging.partial.mkdir(parents=True)
        except OSError as failure:
            raise UnwritableError(parent, failure) from failure
        yield staging
        staging.path = _publish(staging.partial, parent / stamp)
    except BaseException:
        shutil.rmtree(staging.partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # one that is not empty holds somebody else's run
            for folder in made:
                folder.rmdir()
        raise


def _publish(partial: Path, wanted: Path) -> Path:
    """Rename to the wanted name, or to the first `-2`, `-3` … that is free."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    os.replace(partial, path)
    return path


def save(
    folder: Path,
    *,
    config: Any,
    result: Any,
    metrics: Iterable[Mapping[str, Any]],
    verdicts: Iterable[Verdict],
    table: str,
    figures: Mapping[str, Figure],
) -> None:
    """Write all files of a run into `folder`.

    Raises:
      UnwritableError: a file cannot be written, for want of space for example.
    """
    try:
        _save(folder, config, result, metrics, verdicts, table, figures)
    except OSError as failure:
        raise UnwritableError(folder, failure) from failure


def _save(folder, config, result, metrics, verdicts, table, figures) -> None:
    _write_json(folder / "config.json", dataclasses.asdict(config))
    _write_json(folder / "versions.json", versions(config.seed))
    np.savez_compressed(folder / "arrays.npz", **named_arrays(result))
    lines = [json.dumps(_plain(row), allow_nan=False) for row in metrics]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "verdicts.json", [_plain_verdict(verdict) for verdict in verdicts])
    (folder / "table.txt").write_text(table, encoding="utf-8")
    (folder / "figures").mkdir()
    for name, figure in figures.items():
        figure.savefig(folder / "figures" / f"{name}.png")


def named_arrays(result: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree of NamedTuples by their dotted path.

    >>> named_arrays(Interval(1.0, 0.0, 2.0))["low"]
    array(0.)
    """
    leaves = jax.tree_util.tree_leaves_with_path(result)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def load_arrays(run: Path) -> dict[str, np.ndarray]:
    """The arrays of a run by name."""
    with np.load(Path(run) / "arrays.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def load_config(run: Path, config_type: type[ConfigT]) -> ConfigT:
    """The configuration of a run, checked again."""
    fields = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def versions(seed: int) -> dict[str, Any]:
    """What the run ran on."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax", "flax")},
        "rnn_jax": rnn_jax.__version__,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "machine": platform.machine(),
        "system": platform.system(),
        "seed": seed,
    }


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain_verdict(verdict: Verdict) -> dict[str, Any]:
    fields = verdict._asdict()
    return {k: v._asdict() if isinstance(v, Interval) else v for k, v in fields.items()}


def _plain(value: Any) -> Any:
    """What JSON can say: numbers that are not finite become text, as JSON has none."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
