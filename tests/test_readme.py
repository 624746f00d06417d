"""The README's example runs, and every function that it names exists."""

import importlib
import re
from pathlib import Path

import jax
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_runs_and_shows_a_gradient_that_vanishes(capsys):
    with jax.numpy_rank_promotion("allow"):  # as in a fresh Python prompt
        names = {}
        exec(EXAMPLE, names)
    assert re.fullmatch(r"after 60 steps: measured e\^-\d+, bound e\^-\d+\n", capsys.readouterr().out)
    assert names["measured"][60] < names["bound"][60] < 0
    assert names["delta"].shape == (64,)


def test_the_example_has_fifteen_lines_of_code():
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+\.)+\w+)[`(]", README))))
def test_every_function_that_is_named_exists(name):
    module, _, attribute = name.removeprefix("rnn_jax.").partition(".")
    homes = {"optax": "optax", "jax": "jax", "lax": "jax.lax"}
    home = importlib.import_module(homes.get(module, f"rnn_jax.{module}"))
    assert not attribute or hasattr(home, attribute)


def test_files_that_are_linked_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
