"""What the README and the documentation show runs, and every function that they name exists."""

import importlib
import re
from operator import attrgetter
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
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


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```python" in text])
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL):
            exec(block, names)
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGES[page]):
        assert (tmp_path / picture).stat().st_size > 0, (
            f"{page} shows {picture}, which its blocks do not make"
        )
        assert (ROOT / "docs" / picture).exists()


ALL_TEXT = "\n".join([README, *PAGES.values()])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+\.)+\w+)[`(]", ALL_TEXT))))
def test_every_function_that_is_named_exists(name):
    module, _, attribute = name.removeprefix("rnn_jax.").partition(".")
    homes = {"optax": "optax", "jax": "jax", "lax": "jax.lax"}
    home = importlib.import_module(homes.get(module, f"rnn_jax.{module}"))
    assert not attribute or attrgetter(attribute)(home) is not None


def test_files_that_are_linked_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
