"""Series with a class each, from files in the `.ts` format of the UCR and UEA archives.

    # comments                                     the header names the problem and its classes
    @problemName Toy
    @univariate false
    @classLabel true left right
    @data
    1.0,2.0,3.0:4.0,5.0,6.0:left                   one case a line: its channels, split by colons, then its class

Cases may differ in length; missing values, time stamps and real-valued targets are refused.
"""

from pathlib import Path

import numpy as np

from rnn_jax.datasets import files
from rnn_jax.datasets.sequences import Dataset, Sequences, divide, pad, split_in_order

UCR_LICENCE = (
    "No licence is stated by the archive, which asks to be cited: Dau et al. (2019), The UCR Time Series Archive, "
    "IEEE/CAA Journal of Automatica Sinica 6(6), or Bagnall et al. (2018), arXiv:1811.00075, for several channels"
)
VOWELS_LICENCE = "CC BY 4.0 (UCI Machine Learning Repository, dataset 128)"


def japanese_vowels(folder: str | Path | None = None) -> Dataset:
    """Nine speakers say "ae": 12 coefficients of the linear-prediction cepstrum a step, 7 to 29 steps; who was it?

    M. Kudo, J. Toyama and M. Shimbo (1999), Multidimensional curve classification using passing-through regions,
    Pattern Recognition Letters 20(11–13). 270 utterances to learn from and 370 to report, float32 `(29, n, 12)`, as the
    authors divided them. Hash of the split:

        96a459797031c400f6a51e1941d505dfb0bcef7351ededf025dd6e989fb684a1

    Args:
      folder: as for `ucr`.

    Raises:
      ImportError, ValueError: as for `ucr`.

    >>> japanese_vowels()  # doctest: +SKIP
    JapaneseVowels: 270 train, 0 validation, 370 test
    xs float32 (29, 270, 12)
    CC BY 4.0 (UCI Machine Learning Repository, dataset 128)
    """
    return ucr("JapaneseVowels", folder)._replace(licence=VOWELS_LICENCE)


def ucr(name: str, folder: str | Path | None = None) -> Dataset:
    """A problem of the UCR or UEA archive: float32 `(T, n, D)`, and classes `(n,)` in the order of the header.

    The archive's own division, without a validation set. Hashes of the split:

        ArrowHead           a8b25dcf43c6d87f0408a9fda3756b7fc4fe8b4f2b175eaeb7b0a998ac2e7bdb
        GunPoint            453b04bc78ce488fff493db5a4d0cf75e9ae35af374210168d21c3de81f865ed
        ItalyPowerDemand    2031d8f86a84034d914c88a214385e9aed85811d92cedbfe89a4b0508faf6991

    Args:
      name: such as "GunPoint". Without a folder, one that sktime carries; the error for another lists them.
      folder: one that holds `name_TRAIN.ts` and `name_TEST.ts`, itself or in a folder `name`.

    Raises:
      ImportError: no folder is given, and sktime is not installed.
      ValueError: a file is missing, damaged or of another kind.

    >>> ucr("GunPoint")  # doctest: +SKIP
    GunPoint: 50 train, 0 validation, 150 test
    xs float32 (150, 50, 1)
    No licence is stated by the archive, which asks to be cited: ...
    """
    if folder is None:
        folder = files.installed("sktime", "datasets", "data")
        if not Path(folder, name, f"{name}_TRAIN.ts").is_file():
            raise ValueError(
                f"sktime carries no problem {name!r}; it has {', '.join(_carried(folder))}. For another one, give the "
                f"folder that holds {name}_TRAIN.ts and {name}_TEST.ts."
            )
    paths = [
        files.one_of(folder, [f"{name}_{part}.ts", f"{name}/{name}_{part}.ts"]) for part in ("TRAIN", "TEST")
    ]
    (train, train_classes, names), (test, test_classes, test_names) = map(read_ts, paths)
    if names != test_names or train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"{paths[0]} has {train[0].shape[1]} channels and the classes {', '.join(names)}; {paths[1]} has "
            f"{test[0].shape[1]} and {', '.join(test_names)}. They must be the same: get the pair anew."
        )
    xs, lengths = pad(train + test)
    return divide(
        Sequences(xs, lengths, np.array(train_classes + test_classes, np.int32)),
        split_in_order(len(train), 0, len(test)),
        name=name,
        symbols=names,
        licence=UCR_LICENCE,
        source=paths[0].parent,
    )


def _carried(folder: Path) -> list[str]:
    """The problems in the folders of a folder whose files have a list of classes."""
    return sorted(
        path.stem.removesuffix("_TRAIN")
        for path in folder.glob("*/*_TRAIN.ts")
        if b"@classlabel true" in path.read_bytes().lower()
    )


def read_ts(path: str | Path) -> tuple[list[np.ndarray], list[int], tuple[str, ...]]:
    """The cases of one file, float32 `(T_i, D)`; their classes, indices into the names; the names.

    Raises:
      ValueError: a file without a list of classes or cases; a case whose channels differ in length or number, with a
        missing value or a class that the header does not list. The line is named.

    >>> read_ts("Toy_TRAIN.ts")
    Traceback (most recent call last):
        ...
    ValueError: Toy_TRAIN.ts is not a file; give the path of one.
    """
    path = Path(path)
    lines = files.contents(path).decode(errors="replace").splitlines()  # some comments are in other encodings
    header, data = {}, len(lines)
    for number, line in enumerate(lines):
        key, _, value = line.strip().partition(" ")
        if key.lower() == "@data":
            data = number + 1
            break
        if key.startswith("@"):
            header[key.lower()] = value.split()
    flag, *names = header.get("@classlabel") or ["false"]
    stamps, *_ = header.get("@timestamps") or ["false"]
    if flag.lower() != "true" or not names or stamps.lower() != "false":
        raise files.wrong(
            path,
            f"its header says @classLabel {' '.join([flag, *names])}, @timeStamps {stamps}",
            "a .ts file with `@classLabel true` and the names of the classes, without time stamps",
        )
    cases: list[np.ndarray] = []
    classes: list[int] = []
    for number, line in enumerate(lines[data:], data + 1):
        if not line.strip() or line.startswith("#"):
            continue
        *channels, label = line.strip().split(":")
        try:
            case = np.array([channel.split(",") for channel in channels], np.float64).T
        except ValueError:
            case = np.array([])
        expected = cases[0].shape[1] if cases else max(len(channels), 1)
        if case.ndim != 2 or case.shape[1] != expected or not np.isfinite(case).all():
            raise files.wrong(
                path,
                f"line {number} is not a case",
                f"{expected} channels of finite numbers, all of one length",
            )
        if label.strip() not in names:
            raise files.wrong(
                path, f"line {number} has the class {label.strip()[:40]!r}", f"one of {', '.join(names)}"
            )
        cases.append(case.astype(np.float32))
        classes.append(names.index(label.strip()))
    if not cases:
        raise files.wrong(path, "has no cases", "at least one after @data")
    return cases, classes, tuple(names)
