"""What the README and the documentation show runs, and every function that they name exists."""

import contextlib
import importlib
import inspect
import io
import re
from operator import attrgetter
from pathlib import Path

import jax
import pytest

from rnn_jax import datasets, tasks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EXAMPLE, TASK, FLOW = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_examples_run_and_show_a_gradient_that_vanishes_and_the_level_of_chance(capsys):
    with jax.numpy_rank_promotion("allow"):  # as in a fresh Python prompt
        names = {}
        exec(EXAMPLE, names)
        assert re.fullmatch(r"after 60 steps: measured e\^-\d+, bound e\^-\d+\n", capsys.readouterr().out)
        assert names["measured"][60] < names["bound"][60] < 0
        assert names["delta"].shape == (64,)
        exec(TASK, names)
        assert re.fullmatch(r"untrained \d\.\d\d, without a memory 0\.30\n", capsys.readouterr().out)
        assert names["batch"].xs.shape == (70, 32, 10)
        assert names["batch"].targets.shape == names["batch"].weights.shape == (70, 32)
        exec(FLOW, names)
        shown = capsys.readouterr().out
        found = re.fullmatch(
            r"(\S+) nats a step: over the 60 steps that the task asks for, e\^(\S+) is left\n", shown
        )
        assert found, shown
        assert abs(60 * names["rate"] - names["curve"][60]) < 0.5


def test_the_example_has_fifteen_lines_of_code():
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```python" in text])
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for block, _, shown in re.findall(
            r"```python\n(.*?)```\n(\n```text\n(.*?)```)?", PAGES[page], flags=re.DOTALL
        ):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(block, names)
            assert not shown or printed.getvalue() == shown
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGES[page]):
        assert (ROOT / "docs" / picture).exists()
        by_experiment = f"run {Path(picture).stem}`" in PAGES[page]
        assert by_experiment or (tmp_path / picture).stat().st_size > 0, (
            f"{page} shows {picture}, which neither its blocks nor an experiment that it names make"
        )


def rows_of(page, module):
    """The calls in the first column of a table, and the other columns."""
    return [
        (call, columns.split(" | "))
        for call, columns in re.findall(
            rf"^\| `{module}\.(.*?)` \| (.*) \|$", PAGES[page], flags=re.MULTILINE
        )
    ]


def returning(module, kind):
    """The functions of a module that return one of a kind."""
    return {
        name
        for name, function in vars(module).items()
        if inspect.isfunction(function) and inspect.signature(function).return_annotation is kind
    }


def test_every_task_is_listed_with_its_lag_and_its_level_of_chance():
    rows = rows_of("tasks.md", "tasks")
    assert {call.partition("(")[0] for call, _ in rows} == returning(tasks, tasks.Task)
    for call, (_, lag, chance, _) in rows:
        task = eval(call, vars(tasks))
        assert (str(task.lag), f"{task.baseline:.4f}") == (lag, chance), call


def test_every_dataset_is_listed():
    rows = rows_of("tasks.md", "datasets")
    assert {call.partition("(")[0] for call, _ in rows} == returning(datasets, datasets.Dataset)


ALL_TEXT = "\n".join([README, *PAGES.values()])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+\.)+\w+)[`(]", ALL_TEXT))))
def test_every_function_that_is_named_exists(name):
    module, _, attribute = name.removeprefix("rnn_jax.").partition(".")
    homes = {"optax": "optax", "jax": "jax", "lax": "jax.lax"}
    home = importlib.import_module(homes.get(module, f"rnn_jax.{module}"))
    assert not attribute or attrgetter(attribute)(home) is not None


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page}" for page in PAGES)])
def test_files_that_are_linked_exist(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target
