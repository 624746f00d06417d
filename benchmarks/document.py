"""The tables and pictures of docs/performance.md, made from records.

Records that are kept stand in docs/benchmarks as BENCHMARK-DTYPE-DEVICE.json, one of a kind, a newer one in place of an
older and never the other way round. In the page, what stands between

    <!-- begin NAME -->        <!-- end NAME -->

is generated: for the name of a benchmark, its tables, pictures and verdicts from every record of it; for `missed`,
all claims that do not hold. The rest of the page is written by hand.
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pictures, records, runner, tables, verdicts
from benchmarks.harness import BenchmarkError
from benchmarks.runner import Benchmark

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
FOLDER = "benchmarks"
"""Beside the page: records and pictures."""

NOTHING = "No record is kept."

Records = Mapping[str, Mapping[str, Any]]
"""By the name of the file, without its suffix."""


def update(benchmarks: Mapping[str, Benchmark], paths: Sequence[Path] = (), page: Path = PAGE) -> None:
    """Take the records in some files over, then write the page's tables and pictures from all that are kept.

    Raises:
      BenchmarkError: if a file is no record of these benchmarks, the page lacks the place for a table, or nothing can
        draw.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchmarkError(
            "pictures are drawn by matplotlib, which is not installed; pip install matplotlib."
        )
    folder = page.parent / FOLDER
    for record in [records.read(path) for path in paths]:
        if record["benchmark"] not in benchmarks:
            raise BenchmarkError(
                f"there is no benchmark {record['benchmark']!r}; records of it have no table."
            )
        path = folder / f"{name_of(record)}.json"
        if path.exists() and records.read(path)["created"] > record["created"]:
            print(f"{path} is newer than the record of {record['created']}, and stays")
        else:
            records.write_json(path, record)
    kept = read_all(folder)
    records.write_text(page, fill(page.read_text(encoding="utf-8"), blocks(benchmarks, kept)))
    for name, record in kept.items():
        pictures.draw(record, folder / f"{name}.png")
    print(f"{page}: {len(kept)} record{'s' * (len(kept) != 1)}")


def read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that are kept, by name."""
    return {path.stem: records.read(path) for path in sorted(folder.glob("*.json"))}


def name_of(record: Mapping[str, Any]) -> str:
    """The name under which a record is kept.

    >>> device = {"platform": "tpu", "kind": "TPU v5 lite"}
    >>> name_of({"benchmark": "memory", "settings": {"dtype": "float32"}, "device": device})
    'memory-float32-tpu-v5-lite'
    """
    device = re.sub(r"[^a-z0-9]+", "-", _device_name(record).lower())
    return f"{record['benchmark']}-{record['settings']['dtype']}-{device}"


def _device_name(record: Mapping[str, Any]) -> str:
    device = record["device"]
    return "CPU" if device["platform"] == "cpu" else device["kind"]


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """The text with the blocks between their markers.

    Raises:
      BenchmarkError: if a block has no markers, or markers no block.

    >>> print(fill("<!-- begin x -->old<!-- end x -->", {"x": "new"}))
    <!-- begin x -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- end x -->
    """
    pattern = re.compile(r"<!-- begin ([\w-]+) -->.*?<!-- end \1 -->", flags=re.DOTALL)
    places = pattern.findall(text)
    if sorted(places) != sorted(blocks):
        raise BenchmarkError(
            f"the page has places for {', '.join(places)}; expected one each for {', '.join(blocks)}. "
            "Write <!-- begin NAME --> and <!-- end NAME --> where each is to stand."
        )
    return pattern.sub(
        lambda match: f"<!-- begin {match[1]} -->\n\n{blocks[match[1]]}\n\n<!-- end {match[1]} -->", text
    )


def blocks(benchmarks: Mapping[str, Benchmark], kept: Records) -> dict[str, str]:
    """What stands between each pair of markers."""
    found = {}
    for name, benchmark in benchmarks.items():
        sections = [
            section(benchmark, record, file) for file, record in kept.items() if record["benchmark"] == name
        ]
        found[name] = "\n\n".join(sections) or NOTHING
    return {**found, "missed": missed(kept.values())}


def section(benchmark: Benchmark, record: Mapping[str, Any], file: str) -> str:
    """A record as Markdown: what it ran on, its tables, its picture, its verdicts."""
    settings = record["settings"]
    parts = [
        f"**{settings['dtype']}**, preset {settings['preset']}, rounds: {settings['rounds']}, "
        f"{record['created'][:10]}; {runner.machine(record)}."
    ]
    if record["device"].get("keeps_programs"):
        parts.append("Programs were read from disk: there is no time of compiling.")
    if benchmark.pivots:
        for pivot in benchmark.pivots:
            parts += [f"{pivot.title}:", tables.pivot(pivot, record["cases"])]
    else:
        parts.append(tables.markdown(benchmark.columns, tables.rows(record["cases"])))
    if record["benchmark"] in pictures.DRAWN:
        parts.append(f"![{pictures.DRAWN[record['benchmark']].caption}]({FOLDER}/{file}.png)")
    if record["verdicts"]:
        parts.append(tables.markdown(tables.VERDICTS, record["verdicts"]))
    parts += [f"Not measured: {name} ({reason})." for name, reason in record["skipped"].items()]
    return "\n\n".join(parts)


def missed(kept: Iterable[Mapping[str, Any]]) -> str:
    """The claims that fail or are open, of all records, device by device."""
    kept = list(kept)
    if not kept:
        return NOTHING
    found: dict[str, list[dict[str, Any]]] = {_device_name(record): [] for record in kept}
    for record in kept:
        found[_device_name(record)] += [
            {**verdict, "claim": f"{record['benchmark']}, {record['settings']['dtype']}, {verdict['claim']}"}
            for verdict in record["verdicts"]
            if verdict["verdict"] in (verdicts.FAILS, verdicts.INCONCLUSIVE)
        ]
    return "\n\n".join(
        f"**{device}**\n\n{tables.markdown(tables.VERDICTS, claims) if claims else 'Every claim holds.'}"
        for device, claims in found.items()
    )
