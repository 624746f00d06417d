"""What a set of sequences is, how it is divided, and the hash by which a division is known again."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Sequences(NamedTuple):
    """n sequences side by side, time first, zeros after the end of each.

    Attributes:
      xs: inputs, `(T, n, D)`, or `(T, n)` if they are characters.
      lengths: number of steps of each, int32 `(n,)`, in [1, T].
      targets: the class of each sequence, int32 `(n,)`; or of every step what comes next, shaped like `xs`.
    """

    xs: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray


class Split(NamedTuple):
    """Indices into the sequences in the order of their files, int32; no validation set if it is empty.

    Attributes:
      train: those to learn from.
      validation: those to choose by.
      test: those to report.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Dataset(NamedTuple):
    """Sequences divided once and for all.

    Attributes:
      name: what they are.
      train: the sequences to learn from.
      validation: those to choose by; None where the source divides its data in two.
      test: those to report.
      split: which is which; `digest(*data.split)` is its hash.
      symbols: what the integers stand for: the names of the classes, the characters, the MIDI numbers of the keys.
      licence: under which terms the data may be used, and who says so.
      source: where they were read.
    """

    name: str
    train: Sequences
    validation: Sequences | None
    test: Sequences
    split: Split
    symbols: tuple[str, ...]
    licence: str
    source: str

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(indices)} {part}" for part, indices in self.split._asdict().items())
        return f"{self.name}: {sizes}\nxs {self.train.xs.dtype} {self.train.xs.shape}\n{self.licence}"


def divide(
    sequences: Sequences, split: Split, *, name: str, symbols: Sequence[str], licence: str, source: Any
) -> Dataset:
    """The dataset of these sequences, with this division.

    >>> everything = Sequences(np.arange(6.0).reshape(2, 3, 1), np.full(3, 2), np.array([0, 1, 0]))
    >>> halves = Split(np.array([0, 2]), np.array([], int), np.array([1]))
    >>> data = divide(everything, halves, name="toy", symbols="ab", licence="none", source="here")
    >>> data
    toy: 2 train, 0 validation, 1 test
    xs float64 (2, 2, 1)
    none
    >>> data.train.xs[..., 0], data.validation
    (array([[0., 2.],
           [3., 5.]]), None)
    """

    def part(indices: np.ndarray) -> Sequences:
        along_batch = (slice(None), indices)
        targets = sequences.targets
        return Sequences(
            sequences.xs[along_batch],
            sequences.lengths[indices],
            targets[indices] if targets.ndim == 1 else targets[along_batch],
        )

    return Dataset(
        name=name,
        train=part(split.train),
        validation=part(split.validation) if len(split.validation) else None,
        test=part(split.test),
        split=split,
        symbols=tuple(symbols),
        licence=licence,
        source=str(source),
    )


def digest(*arrays: Any) -> str:
    """SHA-256 of the dtypes, shapes and little-endian entries of arrays, on any machine.

    >>> digest(np.arange(3, dtype=np.int32))[:16]
    '9a25ebc17ef66f7e'
    """
    total = hashlib.sha256()
    for array in map(np.asarray, arrays):
        total.update(f"{array.dtype.name} {array.shape} ".encode())
        total.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


def shuffled(size: int, seed: str) -> np.ndarray:
    """0 … size − 1 in the order of the SHA-256 of "seed 0", "seed 1", …: int32 `(size,)`.

    >>> shuffled(5, "pixels")
    array([...], dtype=int32)
    """
    ranks = [hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(size)]
    return np.array(sorted(range(size), key=ranks.__getitem__), np.int32)


def split_classes(classes: np.ndarray, seed: str) -> Split:
    """Three fifths of each class to learn from, a fifth each to choose by and to report, as JSB Chorales are divided.

    Args:
      classes: the class of each sequence, `(n,)`; all the same where there are none.
      seed: what decides which sequence goes where, together with its index.

    >>> [len(part) for part in split_classes(np.zeros(10), "toy")]
    [6, 2, 2]
    """
    order = shuffled(len(classes), seed)
    parts: tuple[list, list, list] = ([], [], [])
    for label in np.unique(classes):
        members = order[classes[order] == label]
        cuts = [3 * len(members) // 5, 4 * len(members) // 5]
        for part, chosen in zip(parts, np.split(members, cuts), strict=True):
            part.append(chosen)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def split_in_order(*sizes: int) -> Split:
    """The first sequences to learn from, the next to choose by, the last to report.

    >>> split_in_order(2, 0, 1)
    Split(train=array([0, 1], dtype=int32), validation=array([], dtype=int32), test=array([2], dtype=int32))
    """
    return Split(*np.split(np.arange(sum(sizes), dtype=np.int32), np.cumsum(sizes)[:-1]))


def pad(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays `(T_i, …)` side by side, zeros after their ends: `(T, n, …)` and the lengths, int32 `(n,)`.

    >>> pad([np.array([1, 2]), np.array([3])])
    (array([[1, 3],
           [2, 0]]), array([2, 1], dtype=int32))
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    xs = np.zeros((lengths.max(), len(sequences), *sequences[0].shape[1:]), sequences[0].dtype)
    for i, sequence in enumerate(sequences):
        xs[: len(sequence), i] = sequence
    return xs, lengths


def predict_next(sequences: Sequence[np.ndarray]) -> Sequences:
    """x_1 … x_{T−1} as inputs and x_2 … x_T as targets, of arrays `(T_i, …)` with T_i ≥ 2.

    >>> predict_next([np.array([1, 2, 3]), np.array([4, 5])])
    Sequences(xs=array([[1, 4],
           [2, 0]]), lengths=array([2, 1], dtype=int32), targets=array([[2, 5],
           [3, 0]]))
    """
    xs, lengths = pad([sequence[:-1] for sequence in sequences])
    targets, _ = pad([sequence[1:] for sequence in sequences])
    return Sequences(xs, lengths, targets)
