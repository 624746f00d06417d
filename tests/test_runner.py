"""The runner checks before it computes, writes whole runs or nothing, and says what was wrong."""

import dataclasses
import json
import os
import sys
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import experiments
from experiments import results, runner
from experiments.verdicts import is_below, judge, single


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    size: int = 3
    """How many numbers."""

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size is {self.size}; expected an integer >= 1. Pass --size.")


class Result(NamedTuple):
    numbers: jax.Array
    nested: dict


def run(config, key, progress):
    for _ in progress(range(2), "numbers", 1):
        pass
    return Result(numbers=jax.random.normal(key, (config.size,)), nested={"zero": jnp.zeros(2)})


def verdicts(config, result):
    del config
    return [
        judge(
            is_below(0.5),
            measured=single(result.nested["zero"].max()),
            control_measured=single(np.inf),
            name="zero",
            claim="zeros are small",
            source="arithmetic",
            expected="< 0.5",
            unit="1",
            tolerance=0.5,
            reason="half of one",
            control="infinity",
        )
    ]


@pytest.fixture
def fake(monkeypatch):
    """An experiment that takes no time."""
    module = ModuleType("experiments.fake")
    module.__doc__ = "Are there any numbers?\n\nMore."
    module.PRESETS = {"full": Config(), "tiny": Config(size=1)}
    module.run, module.verdicts = run, verdicts
    module.metrics = lambda config, result: [{"i": i, "x": float(x)} for i, x in enumerate(result.numbers)]
    module.table = lambda config, result, verdicts: f"{result.numbers.size} numbers: {verdicts[0].outcome}"
    module.figures = lambda config, result: {"numbers": Figure(figsize=(1, 1))}
    monkeypatch.setitem(sys.modules, "experiments.fake", module)
    monkeypatch.setattr(experiments, "NAMES", ("fake",))
    return module


def only_run(folder):
    (path,) = (folder / "fake").iterdir()
    return path


def test_list_shows_the_question_of_each_experiment(fake, capsys):
    assert runner.main(["list"]) == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["fake", "Are there any numbers?\n"]


def test_a_run_is_complete_and_can_be_read_back(fake, tmp_path, capsys):
    assert runner.main(["run", "fake", "--size", "4", "--seed=7", "--results", str(tmp_path)]) == 0
    path = only_run(tmp_path)
    assert "4 numbers: holds" in capsys.readouterr().out
    assert Config(**json.loads((path / "config.json").read_text())) == Config(seed=7, size=4)
    versions = json.loads((path / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert versions["seed"] == 7
    (verdict,) = json.loads((path / "verdicts.json").read_text())
    assert verdict["outcome"] == "holds"
    assert verdict["control_measured"]["value"] == "inf"
    assert (path / "table.txt").read_text() == "4 numbers: holds\n"
    assert [json.loads(line)["i"] for line in (path / "metrics.jsonl").read_text().splitlines()] == [
        0,
        1,
        2,
        3,
    ]
    assert (path / "figures" / "numbers.png").stat().st_size > 0
    with np.load(path / "arrays.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["numbers"], jax.random.normal(jax.random.key(7), (4,)))
        assert set(arrays) == {"numbers", "nested.zero"}


def test_presets_are_chosen_by_name_and_overridden_by_options(fake):
    assert runner.configure(fake, "fake", None, []) == Config()
    assert runner.configure(fake, "fake", "tiny", []) == Config(size=1)
    assert runner.configure(fake, "fake", "tiny", ["--seed", "3"]) == Config(size=1, seed=3)


def test_two_runs_of_the_same_second_do_not_meet(fake, tmp_path):
    for _ in range(2):
        assert runner.main(["run", "fake", "--results", str(tmp_path)]) == 0
    assert len(list((tmp_path / "fake").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "unknown experiment 'nothing'; there is fake"),
        (["run"], "unknown experiment ''"),
        (["run", "fake", "--preset", "huge"], "unknown preset 'huge'; fake has full, tiny"),
        (["run", "fake", "--sizes", "4"], "unknown option --sizes; fake has --seed, --size"),
        (["run", "fake", "--size", "0"], "size is 0; expected an integer >= 1"),
        (["run", "fake", "--size", "many"], "many"),
        (["run", "fake", "4"], "4"),
        (["list", "all"], "takes no options"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line_and_nothing_is_computed(
    fake, monkeypatch, tmp_path, capsys, arguments, message
):
    monkeypatch.setattr(fake, "run", None)  # calling it would fail
    monkeypatch.chdir(tmp_path)
    assert runner.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_cannot_be_written_to_is_found_before_the_run(
    fake, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(fake, "run", None)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert runner.main(["run", "fake", "--results", str(blocked)]) == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert blocked.read_text() == "not a folder"


@pytest.mark.parametrize("part", ["run", "figures"])
def test_a_run_that_fails_leaves_nothing_behind(fake, monkeypatch, tmp_path, part):
    def broken(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr(fake, part, broken)
    with pytest.raises(RuntimeError, match="broken"):
        runner.main(["run", "fake", "--results", str(tmp_path)])
    assert list((tmp_path / "fake").iterdir()) == []


def test_a_run_that_is_interrupted_leaves_nothing_behind(fake, monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.np, "savez_compressed", interrupted)
    assert runner.main(["run", "fake", "--results", str(tmp_path)]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list((tmp_path / "fake").iterdir()) == []


def test_a_write_that_fails_midway_leaves_nothing_behind(fake, monkeypatch, tmp_path):
    def full_disk(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(results.np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space"):
        runner.main(["run", "fake", "--results", str(tmp_path)])
    assert os.listdir(tmp_path / "fake") == []
