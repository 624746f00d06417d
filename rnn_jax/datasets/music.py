"""Four-part chorales by J. S. Bach as a piano roll: which of 88 keys sound at each step; what sounds next?

    v_t ∈ {0, 1}^88        v_t[k] = 1 if the key of MIDI number 21 + k sounds at step t

A step is a fraction of a quarter note, and a note counts where it is heard at the beginning of the step, so that notes
between two steps are passed over, and one that is held is not told from one that is struck again: as in N.
Boulanger-Lewandowski, Y. Bengio and P. Vincent (2012), Modeling temporal dependencies in high-dimensional sequences,
ICML, and the files made from theirs. What a network must beat is what knows no time (`frequency_loss`):

    p_k = frequency of key k in training        L = mean over steps of −Σ_k {v_t[k] ln p_k + (1 − v_t[k]) ln(1 − p_k)}
"""

import json
import math
import xml.etree.ElementTree as ET
import zipfile
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnn_jax.datasets import files
from rnn_jax.datasets.sequences import Dataset, Sequences, divide, predict_next, split_classes, split_in_order

LOWEST, KEYS = 21, 88
"""A0, and the keys of a piano, up to C8 = 108."""

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
PARTS = ["Soprano", "Alto", "Tenor", "Bass"]
LICENCE = (
    "The music is in the public domain; the encodings, most of them © 2003 or 2004 Margaret Greentree, are distributed "
    "with permission, and commercial use may be restricted (the files; music21, corpus/license.txt)"
)
JSON_LICENCE = "The music is in the public domain; for the encoding, ask where your file is from"

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    ET.ParseError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
)
"""What the standard library and our own code raise, the one after the other, at a file of another kind."""


class Score(NamedTuple):
    """A piece as written, in quarter notes from its beginning.

    Attributes:
      notes: `(start, end, MIDI number)` of each.
      length: when it ends.
    """

    notes: tuple[tuple[Fraction, Fraction, int], ...]
    length: Fraction


def chorales(path: str | Path | None = None, *, per_quarter: int = 1) -> Dataset:
    """Four-part chorales: frames v_1 … v_{T−1}, uint8 `(T, n, 88)`, and the next frame of each step.

    Without a path, all pieces in music21's corpus/bach that are for soprano, alto, tenor and bass and nothing else, as
    written, repeats not unfolded; of those alike note for note one is kept: 362. Other settings of the same
    melody stay, and may stand on both sides of the division. Hash of the split:

        4a1efc60f67d07228d75add2e5c47fb3073b7803681edc4fc334083c562d7f65

    With a path, a JSON file of JSB Chorales, at its own steps and division (229, 76 and 77 chorales): an object with
    "train", "valid" and "test", each a list of chorales, each a list of frames, each a list of MIDI numbers, where −1
    is a silent voice (jsb-chorales-quarter.json, Jsb16thSeparated.json). The pickle of the same data is refused: a
    pickle may run any program when it is opened.

    Args:
      path: the file.
      per_quarter: steps in a quarter note, 1, 2 or 4; of music21's pieces only.

    Raises:
      ImportError: no path is given, and music21 is not installed.
      ValueError: a file is missing, damaged or of another kind; `per_quarter` out of range, or given with a path.

    >>> chorales()  # doctest: +SKIP
    Bach chorales, 1 step a quarter: 217 train, 72 validation, 73 test
    xs uint8 (192, 217, 88)
    The music is in the public domain; ...
    """
    if per_quarter not in (1, 2, 4):
        raise ValueError(f"per_quarter is {per_quarter!r}; expected 1, 2 or 4 steps in a quarter note.")
    symbols = [str(LOWEST + key) for key in range(KEYS)]
    if path is not None:
        if per_quarter != 1:
            raise ValueError(f"per_quarter is {per_quarter}, but {path} has its own steps; leave it out.")
        parts = read_json(path)
        return divide(
            predict_next([roll for part in parts for roll in part]),
            split_in_order(*map(len, parts)),
            name="JSB Chorales",
            symbols=symbols,
            licence=JSON_LICENCE,
            source=path,
        )
    folder = files.installed("music21", "corpus", "bach")
    scores = dict.fromkeys(
        score for path in sorted(folder.glob("*.mxl")) if (score := read_mxl(path)) is not None
    )
    if not scores:
        raise files.wrong(folder, "holds no chorales", "compressed MusicXML, *.mxl")
    return divide(
        predict_next([piano_roll(score, per_quarter) for score in scores]),
        split_classes(np.zeros(len(scores)), "chorales"),
        name=f"Bach chorales, {per_quarter} step{'s' * (per_quarter > 1)} a quarter",
        symbols=symbols,
        licence=LICENCE,
        source=folder,
    )


def read_mxl(path: Path) -> Score | None:
    """The piece in a file of compressed MusicXML if it is for soprano, alto, tenor and bass; None if it is not.

    Raises:
      ValueError: a file that is not compressed MusicXML.

    >>> read_mxl(Path("nowhere.mxl"))
    Traceback (most recent call last):
        ...
    ValueError: nowhere.mxl is not a file; give the path of one.
    """
    data = files.contents(path)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            container = ET.fromstring(archive.read("META-INF/container.xml"))
            score = ET.fromstring(archive.read(container.findall(".//rootfile")[0].attrib["full-path"]))
        if [name.text for name in score.findall("part-list/score-part/part-name")] != PARTS:
            return None
        notes, ends = zip(*map(_read_part, score.findall("part")), strict=True)
    except UNREADABLE as error:
        raise files.wrong(path, f"cannot be read ({error!r})", "a score in compressed MusicXML") from error
    return Score(tuple(note for part in notes for note in part), max(ends))


def _read_part(part: ET.Element) -> tuple[list[tuple[Fraction, Fraction, int]], Fraction]:
    """The notes of one `<part>`, and when it ends. Grace notes take no time and are left out."""
    notes, start, now, divisions = [], Fraction(0), Fraction(0), 0
    for element in part.iterfind("measure/*"):
        if (given := element.findtext("divisions")) is not None:
            divisions = int(given)
        if element.tag not in ("note", "forward", "backup") or element.find("grace") is not None:
            continue
        if element.find("chord") is None:  # a note of a chord begins with the one before it
            start = now
        length = Fraction(_whole(element, "duration"), divisions)
        now = start - length if element.tag == "backup" else start + length
        if (pitch := element.find("pitch")) is not None:
            octave, alter = _whole(pitch, "octave"), int(pitch.findtext("alter", "0"))
            number = 12 * (octave + 1) + SEMITONES[pitch.findtext("step", "")] + alter
            if number not in range(LOWEST, LOWEST + KEYS):
                raise ValueError(f"a note of MIDI number {number}, beyond the keys of a piano")
            notes.append((start, now, number))
    return notes, now


def _whole(element: ET.Element, tag: str) -> int:
    """The whole number in a child of an element."""
    return int(element.findtext(tag, "missing"))


def piano_roll(score: Score, per_quarter: int) -> np.ndarray:
    """The frames of a piece, uint8 `(T, 88)`: 1 where start ≤ t / per_quarter < end, t = 0 … T − 1.

    >>> middle_c = Score(((Fraction(1, 2), Fraction(2), 60),), Fraction(2))
    >>> piano_roll(middle_c, 2)[:, 60 - 21]
    array([0, 1, 1, 1], dtype=uint8)
    """
    roll = np.zeros((math.ceil(score.length * per_quarter), KEYS), np.uint8)
    for start, end, number in score.notes:
        roll[math.ceil(start * per_quarter) : math.ceil(end * per_quarter), number - LOWEST] = 1
    return roll


def read_json(path: str | Path) -> list[list[np.ndarray]]:
    """The frames of each chorale, uint8 `(T_i, 88)`, of the three parts of a JSON file.

    Raises:
      ValueError: no file, not JSON, or not of that structure.

    >>> read_json("nowhere.json")
    Traceback (most recent call last):
        ...
    ValueError: nowhere.json is not a file; give the path of one.
    """
    path = Path(path)
    expected = (
        'JSON of {"train": …, "valid": …, "test": …}, each a list of chorales of two frames or more, each a list of '
        f"MIDI numbers {LOWEST} … {LOWEST + KEYS - 1} or −1 (a pickle is not opened: it may run any program)"
    )
    data = files.contents(path)
    try:
        parts = json.loads(data)
        rolls = [[_roll_of(frames) for frames in parts[part]] for part in ("train", "valid", "test")]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise files.wrong(path, f"cannot be read ({error})", expected) from error
    if not (rolls[0] and rolls[2]):
        raise files.wrong(path, "has no chorales to learn from or to report", expected)
    return rolls


def _roll_of(frames: list[list[float]]) -> np.ndarray:
    """Frames as lists of MIDI numbers, as an array."""
    roll = np.zeros((len(frames), KEYS), np.uint8)
    if len(frames) < 2:
        raise ValueError(f"a chorale of {len(frames)} frames")
    for frame, numbers in zip(roll, frames, strict=True):
        for number in numbers:
            if number == -1:
                continue
            if number not in range(LOWEST, LOWEST + KEYS):
                raise ValueError(f"a note {number!r}")
            frame[int(number) - LOWEST] = 1
    return roll


def frequency_loss(train: Sequences, test: Sequences) -> float:
    """The loss per step, in nats, of predicting each key by how often it sounded in training, whatever came before.

    p_k = (count_k + ½) / (steps + 1), so that a key that never sounded is not impossible. Steps are those of the
    targets, frames of 0 and 1, `(T, n, K)`.

    >>> frames = np.array([[[1, 0]], [[1, 0]], [[0, 0]]])
    >>> once = Sequences(frames, np.array([2]), frames)  # (1, 0) twice: p = (5/6, 1/6)
    >>> round(frequency_loss(once, once), 6), round(-2 * math.log(5 / 6), 6)
    (0.364643, 0.364643)
    """

    def frames(sequences: Sequences) -> np.ndarray:
        valid = np.arange(1, len(sequences.targets) + 1)[:, None] <= sequences.lengths
        return sequences.targets[valid].astype(np.float64)

    seen = frames(train)
    p = (seen.sum(0) + 0.5) / (len(seen) + 1)
    frequency = frames(test).mean(0)
    return float(-(frequency * np.log(p) + (1 - frequency) * np.log1p(-p)).sum())
