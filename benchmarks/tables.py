"""One table, printed as it grows and written as Markdown.

A case is a dictionary of what was asked (shape, cell, …) with the measurements of its `contenders` by name. A row is
one contender of one case: the case's entries, the contender's, and its name under `contender`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column.

    Attributes:
      title: its head.
      width: in a terminal; on the left where negative.
      text: what it shows of a row.
    """

    title: str
    width: int
    text: Callable[[Row], str]


def rows(cases: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of some cases.

    >>> list(rows([{"T": 5, "contenders": {"flax.linen": {"ms": 1.0}}}]))
    [{'T': 5, 'ms': 1.0, 'contender': 'flax.linen'}]
    """
    for case in cases:
        asked = {name: value for name, value in case.items() if name != "contenders"}
        for name, measured in case["contenders"].items():
            yield {**asked, **measured, "contender": name}


def lines(columns: Sequence[Column], rows: Iterable[Row]) -> list[str]:
    """Rows for a terminal, without the head.

    >>> lines([entry("cell", -5), number("x", 4, "ratio")], [{"cell": "tanh", "ratio": 1.234}])
    ['tanh  1.23']
    """
    return [_aligned(columns, [column.text(row) for column in columns]) for row in rows]


def head(columns: Sequence[Column]) -> str:
    """The titles of the columns for a terminal."""
    return _aligned(columns, [column.title for column in columns])


def _aligned(columns: Sequence[Column], texts: Sequence[str]) -> str:
    padded = (
        text.ljust(-column.width) if column.width < 0 else text.rjust(column.width)
        for column, text in zip(columns, texts, strict=True)
    )
    return " ".join(padded).rstrip()


def markdown(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """The whole table as Markdown.

    >>> print(markdown([entry("cell", -5), number("x", 4, "ratio")], [{"cell": "tanh", "ratio": 1.234}]))
    | cell | x |
    |---|---:|
    | tanh | 1.23 |
    """
    rule = "".join("---|" if column.width < 0 else "---:|" for column in columns)
    table = [[column.title for column in columns], *([c.text(row) for c in columns] for row in rows)]
    head, *body = (f"| {' | '.join(texts)} |" for texts in table)
    return "\n".join([head, f"|{rule}", *body])


class Pivot(NamedTuple):
    """A table with one row a case and one column a contender.

    Attributes:
      title: what the numbers are.
      keys: columns that tell the cases apart.
      value: what is shown of each contender.
    """

    title: str
    keys: Sequence[Column]
    value: Column


def pivot(table: Pivot, cases: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown; empty where a contender did not take part.

    >>> cases = [{"cell": "tanh", "contenders": {"hand-written": {"ms": 1.0}}}]
    >>> print(pivot(Pivot("", [entry("cell", -5)], number("ms", 5, "ms")), cases))
    | cell | hand-written |
    |---|---:|
    | tanh | 1.00 |
    """
    names = dict.fromkeys(name for case in cases for name in case["contenders"])

    def shown(name):
        def text(case):
            measured = case["contenders"].get(name)
            return "" if measured is None else table.value.text(measured)

        return Column(name, table.value.width, text)

    return markdown([*table.keys, *map(shown, names)], cases)


def entry(title: str, width: int, key: str | None = None) -> Column:
    """A column that shows an entry as it is; that of the title's name if no key is given."""
    return Column(title, width, lambda row: _shown(row.get(title if key is None else key)))


def number(title: str, width: int, *path: str, scale: float = 1.0, form: str = "{:.2f}") -> Column:
    """A column that shows a number: `path` leads to it through dictionaries; "?" where there is none."""

    def text(row):
        value = _follow(row, path)
        return "?" if value is None else form.format(scale * value)

    return Column(title, width, text)


def milliseconds(title: str, width: int, *path: str) -> Column:
    """A column that shows seconds as milliseconds, with fewer decimals the longer it took.

    >>> [milliseconds("ms", 9, "median").text({"median": 1e-3 * ms}) for ms in (0.4567, 45.67, 4567.0)]
    ['0.46', '45.7', '4567']
    """

    def text(row):
        seconds = _follow(row, path)
        return "?" if seconds is None else _milliseconds(seconds)

    return Column(title, width, text)


def quartiles(title: str, width: int, form: Callable[[float], str] | None = None) -> Column:
    """A column that shows the quartiles of the time, in milliseconds unless `form` has seconds otherwise.

    >>> quartiles("ms", 9).text({"spread": {"lower_quartile": 0.0004567, "upper_quartile": 0.01}})
    '0.46 … 10.0'
    """

    def text(row):
        return " … ".join(
            (form or _milliseconds)(row["spread"][name]) for name in ("lower_quartile", "upper_quartile")
        )

    return Column(title, width, text)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{2 if seconds < 0.01 else 1 if seconds < 1 else 0}f}"


def _follow(row: Row, path: Sequence[str]) -> Any:
    """What a path of keys leads to; None where there is none."""
    value: Any = row
    for key in path:
        value = None if value is None else value.get(key)
    return value


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


VERDICTS = (
    entry("verdict", -12),
    entry("claim", -60),
    Column("measured", -9, lambda row: measured(row["measured"])),
    Column("quartiles", -13, lambda row: _range(row.get("quartiles")) or row["note"]),
    entry("expected", -8),
    Column("missed by", -9, lambda row: _missed(row)),
)


def measured(value: float | None) -> str:
    """Three digits, or ? for what could not be measured."""
    if value is None:
        return "?"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _range(quartiles: Sequence[float] | None) -> str:
    return "" if quartiles is None else f"{quartiles[0]:.3g} … {quartiles[1]:.3g}"


def _missed(verdict: Row) -> str:
    if verdict["verdict"] in ("holds", "reported") or verdict.get("missed_by") is None:
        return ""
    return f"× {verdict['missed_by']:.2f}" if verdict["missed_by"] > 1 else "the median holds"
