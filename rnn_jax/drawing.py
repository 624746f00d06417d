"""What the pictures of `rnn_jax.plotting` are made of: curves, maps, words and numbers, and checks of what comes in.

Norms come as natural logarithms and are drawn as powers of ten, on an axis that is linear in log₁₀.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from rnn_jax import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADES = 16
"""Powers of ten that a map shows at most: what is smaller than that beside the largest is lost in a float64 sum."""

_COLOURS = "cividis"
"""Lightness rises evenly along it, in colour, in grey and for colour-blind readers."""

GREY = "0.35"
_HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "linewidth": 0.8}
_HATCHED: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.3", "hatch": "////", "linewidth": 0.0}
ZERO = "exactly 0 (lower edge)"


class Map(NamedTuple):
    """Log-norms over a plane: `logs[j, i]` at (x[i], y[j]); nothing is drawn where `empty`."""

    x: np.ndarray
    y: np.ndarray
    logs: np.ndarray
    empty: np.ndarray
    what: str
    decades: tuple[int, int] | None


def draw_map(axis: "Axes", picture: Map) -> None:
    """The map with its colour bar; exact zeros hatched, and arrows on the bar where its range is exceeded."""
    powers = picture.logs / math.log(10)
    drawn = ~picture.empty & np.isfinite(powers)
    low, high = limits(powers[drawn], picture.decades)
    axis.grid(False)
    axis.set_facecolor("white")
    edges = (_edges(picture.x), _edges(picture.y))
    cells = np.ma.masked_array(np.where(drawn, powers, 0), ~drawn)
    image = axis.pcolormesh(*edges, cells, cmap=_COLOURS, vmin=low, vmax=high, rasterized=True)
    beyond = (bool((powers[drawn] < low).any()), bool((powers[drawn] > high).any()))
    bar = axis.figure.colorbar(
        image,
        ax=axis,
        label=picture.what,
        ticks=range(high, low - 1, -max(1, math.ceil((high - low) / 8))),
        format=power_of_ten,
        extend=["neither", "max", "min", "both"][2 * beyond[0] + beyond[1]],
    )
    bar.ax.grid(False)
    _hatch(axis, *edges, ~picture.empty & np.isneginf(powers))


def limits(powers: np.ndarray, decades: tuple[int, int] | None) -> tuple[int, int]:
    """The lowest and the highest power of ten that have a colour."""
    if decades is not None:
        low, high = decades
        if not low < high or low != int(low) or high != int(high):
            raise ValueError(f"decades is {decades}; expected two integers, lowest < highest power of ten.")
        return int(low), int(high)
    if powers.size == 0:
        return -1, 0
    high = math.ceil(powers.max())
    return min(max(math.floor(powers.min()), high - DECADES), high - 1), high


def explain_map(axis: "Axes", logs: np.ndarray, empty: str | None = None) -> None:
    """A legend of what has no colour, where there is any of it."""
    from matplotlib.patches import Patch

    handles = []
    if np.isneginf(logs).any():
        handles.append(Patch(label="exactly 0", **_HATCHED))
    if empty is not None:
        handles.append(Patch(label=empty, facecolor="white", edgecolor=GREY, linewidth=0.6))
    if handles:
        # The upper right of a triangle is free, that of a rectangle is not.
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
        axis.legend(handles=handles, frameon=False, **({"loc": "upper right"} if empty else place))


def _hatch(axis: "Axes", x: np.ndarray, y: np.ndarray, cells: np.ndarray) -> None:
    """Hatches cells between the edges x and y, one rectangle for each run along a row."""
    if not cells.any():
        return
    from matplotlib.collections import PolyCollection

    rectangles = []
    for j, row in enumerate(cells):
        ends = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
        for left, right in ends.reshape(-1, 2):
            rectangles.append([(x[left], y[j]), (x[right], y[j]), (x[right], y[j + 1]), (x[left], y[j + 1])])
    axis.add_collection(PolyCollection(rectangles, **_HATCHED), autolim=False)


def _edges(centres: np.ndarray) -> np.ndarray:
    """The edges of cells, halfway between their centres."""
    middle = (centres[1:] + centres[:-1]) / 2
    if centres.size == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def curve(axis: "Axes", x: np.ndarray, logs: np.ndarray, label: str, line: Mapping[str, Any]) -> np.ndarray:
    """Draws log-norms as powers of ten, broken where they are −∞; returns what is drawn."""
    zero = np.isneginf(logs)
    powers = drawable(logs)
    number = curves_on(axis)
    marks = markers(x.size, number)["markevery"]
    # A line through one point alone is not seen: it gets its marker whatever its turn.
    around = np.concatenate([[True], zero, [True]])
    alone = np.flatnonzero(~zero & around[:-2] & around[2:])
    marks = sorted({*range(marks[0], x.size, marks[1]), *alone.tolist()})
    axis.plot(x, powers, label=label, gid="curve", markevery=marks, **line)
    if zero.any():
        first = int(np.argmax(zero))
        if first > 0:
            arrow = {
                "arrowstyle": "-|>",
                "color": line["color"],
                "linewidth": 0.8,
                "shrinkA": 0,
                "shrinkB": 0,
            }
            places: dict[str, Any] = {"xycoords": axis.get_xaxis_transform(), "textcoords": "data"}
            axis.annotate("", (x[first], 0), (x[first - 1], powers[first - 1]), arrowprops=arrow, **places)
        at_edge(axis, x, zero, line, ZERO)
    return powers


def at_edge(
    axis: "Axes", x: np.ndarray, where: np.ndarray, line: Mapping[str, Any], label: str, upper: bool = False
) -> None:
    """A thin line with hollow markers along the lower or upper edge, a row for each curve that has it."""
    gid = "upper edge" if upper else "lower edge"
    row = sum(drawn.get_gid() == gid for drawn in axis.lines)
    height = 0.025 + 0.045 * row
    places = np.flatnonzero(where)
    axis.plot(
        x,
        np.where(where, 1 - height if upper else height, np.nan),
        transform=axis.get_xaxis_transform(),
        gid=gid,
        markevery=places[:: max(1, places.size // 8)].tolist(),
        **{**line, **_HOLLOW},
    )
    rows = sum(drawn.get_gid() in ("lower edge", "upper edge") for drawn in axis.lines)
    axis.margins(y=0.02 + 0.055 * rows)
    once(axis, label, color=GREY, linestyle="-", marker="o", **_HOLLOW)


def curves_on(axis: "Axes") -> int:
    """How many curves have been drawn by `curve`."""
    return sum(drawn.get_gid() == "curve" for drawn in axis.lines)


def markers(size: int, number: int) -> dict[str, Any]:
    """About six markers on a curve, those of the next one in other places."""
    step = max(1, size // 6)
    return {"markevery": ((number * 2 * step // 7) % step if step > 1 else 0, step)}


def once(axis: "Axes", label: str, **look: Any) -> None:
    """An entry of the legend that the curves share, if it is not there yet."""
    if label not in axis.get_legend_handles_labels()[1]:
        axis.plot([], [], label=label, gid="shared", **look)


def with_legend(axis: "Axes") -> "Axes":
    """A legend of all that is on the axis, what the curves share last."""
    entries = zip(*axis.get_legend_handles_labels(), strict=True)
    ordered = sorted(entries, key=lambda entry: getattr(entry[0], "get_gid", str)() == "shared")
    axis.legend(
        *zip(*ordered, strict=True), frameon=True, framealpha=0.85, edgecolor="none", handlelength=2.6
    )
    return axis


def drawable(logs: np.ndarray) -> np.ndarray:
    """Natural logarithms as powers of ten; NaN, which breaks a line, for −∞."""
    return np.where(np.isneginf(logs), np.nan, logs / math.log(10))


def name_of(key: Any) -> str:
    """One step of a path in a tree, in words: a tuple is the state of a stack."""
    if isinstance(key, jax.tree_util.SequenceKey):
        return f"layer {key.idx + 1}"
    return jax.tree_util.keystr((key,), simple=True)


def describe(axis: "Axes", x: str, y: str) -> None:
    """Labels of the axes that have none."""
    axis.set(xlabel=axis.get_xlabel() or x, ylabel=axis.get_ylabel() or y)


def powers_of_ten(axis: "Axes") -> None:
    """Whole powers of ten at the ticks, where the range holds two or more of them."""
    axis.locator_params(axis="y", integer=True)
    axis.yaxis.set_major_formatter(power_of_ten)


def power_of_ten(value: float, _: Any = None) -> str:
    """10^value as text: 10⁻³, 0.32, 3.2·10⁻⁵."""
    nearest = round(value)
    if abs(value - nearest) < 1e-6:
        return f"$10^{{{nearest}}}$"
    if -3 < value < 3:
        return f"{10**value:.2g}" if value < 1 else f"{10**value:.0f}"
    power = math.floor(value)
    return rf"${10 ** (value - power):.1f}\cdot 10^{{{power}}}$"


def interval(rate: float, low: float, high: float) -> str:
    """A number with its interval, to the leading digit of the interval's half width."""
    width = (high - low) / 2
    if not math.isfinite(rate) or not math.isfinite(width):
        return _signed(f"{rate:.3g}".replace("inf", "∞"))
    if width <= 1e-6 * abs(rate) or width == 0:
        return _signed(f"{rate:.3g}")
    digits = min(8, max(0, -math.floor(math.log10(width))))
    return _signed(f"{rate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")


def _signed(text: str) -> str:
    return text.replace("-", "−")


def increasing(name: str, x: Any, size: int) -> np.ndarray:
    """`x` as `size` increasing numbers; 0, 1, 2, … if there are none."""
    if x is None:
        return np.arange(size)
    x = numbers(name, x, f"({size},)", 1, size=size)
    if (np.diff(x) <= 0).any() or not np.isfinite(x).all():
        raise ValueError(f"{name} is {x}; expected increasing numbers, one for each entry.")
    return x


def numbers(
    name: str, x: Any, expected: str, ndim: int, *, size: int | None = None, infinite: bool = False
) -> np.ndarray:
    """`x` as float64 of the expected shape, without NaN and +∞ (unless `infinite`)."""
    if not checks.is_concrete(x):
        raise ValueError(f"{name} has no value yet: draw outside of jit, vmap and grad.")
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise ValueError(f"{name} is {array.dtype}; expected numbers, {expected}.")
    if array.ndim != ndim or array.size == 0 or (size is not None and array.size != size):
        raise ValueError(
            f"{name} has shape {array.shape}; expected {expected}, of one sequence. Index a batch, or average over it, "
            "first."
        )
    array = array.astype(float)
    bad = np.isnan(array) if infinite else np.isnan(array) | np.isposinf(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} holds {array[index]:g} at index {index}; expected numbers{'' if infinite else ' or -inf'}. Cut "
            "off what is not there, such as lags that a time does not have: logs[:t + 1]."
        )
    return array
