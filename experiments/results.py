"""A run on disk: `RESULTS/NAME/RUN/`, complete or absent.

    config.json     the configuration, tolerances included
    versions.json   Python, the packages, the device, the seed
    verdicts.json   claim, source, expected, measured, tolerance, outcome and negative control of each
    table.txt       what was printed
    metrics.jsonl   numbers along the run, one JSON object a line
    arrays.npz      every array of the result, by its path in the tree
    figures/        PNG

Everything is written into a hidden folder beside the final one, which is then renamed: whatever interrupts a
run leaves no folder that looks like a result.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import rnn_jax

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "scikit-learn", "matplotlib")


def require_writable(folder: Path) -> None:
    """Make `folder`, and raise `ValueError` unless files can be written into it.

    Called before the computation, so that no run is lost at its end.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"results folder {str(folder)!r} cannot be written to ({error.strerror}). Pass another one with --results."
        ) from error


@contextlib.contextmanager
def complete_or_absent(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends, and is removed if it raises."""
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folder is its owner's alone
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def save(
    folder: Path,
    config: Any,
    result: Any,
    *,
    metrics: Iterable[Mapping[str, Any]],
    verdicts: Iterable,
    table: str,
    figures: Mapping[str, Figure],
) -> Path:
    """Write one run below `folder`; returns its path, named by the time and the seed.

    Args:
      folder: `RESULTS/NAME`, existing.
      config: a frozen dataclass with a `seed`.
      result: a tree of arrays.
      metrics: one mapping a line of `metrics.jsonl`.
      verdicts: NamedTuples.
      table: the text for `table.txt`.
      figures: by file name, without the ending.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    final = _unused(folder / f"{stamp}-seed{config.seed}")
    with complete_or_absent(final) as run:
        _write_json(run / "config.json", dataclasses.asdict(config))
        _write_json(run / "versions.json", versions(config.seed))
        _write_json(run / "verdicts.json", [_as_plain(verdict) for verdict in verdicts])
        lines = [json.dumps(_as_plain(row), allow_nan=False) + "\n" for row in metrics]
        (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        (run / "table.txt").write_text(table + "\n", encoding="utf-8")
        np.savez_compressed(run / "arrays.npz", **arrays(result))
        (run / "figures").mkdir()
        for name, figure in figures.items():
            figure.savefig(run / "figures" / f"{name}.png", dpi=150)
    return final


def versions(seed: int) -> dict[str, Any]:
    """What a run ran on."""
    device = jax.devices()[0]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "rnn_jax": rnn_jax.__version__,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "seed": seed,
    }


def arrays(result: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their dotted path, such as `before.log_norms`."""
    leaves = jax.tree_util.tree_leaves_with_path(result)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def _unused(path: Path) -> Path:
    """`path`, or with a number behind it if there is one already."""
    candidate, count = path, 1
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.name}-{count}")
    return candidate


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _as_plain(value: Any) -> Any:
    """NamedTuples as dictionaries, and what is not finite, which JSON does not know, as text."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _as_plain(field) for name, field in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
