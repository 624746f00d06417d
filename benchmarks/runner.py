"""One run of one benchmark: its cases in turn, rows as they come, verdicts at the end, one record."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import records, tables
from benchmarks.peers import Peer, installed

Case = dict[str, Any]


class Settings(NamedTuple):
    """What a run was asked for.

    Attributes:
      preset: a key of the benchmark's `presets`.
      dtype: "float32" or "float64".
      rounds: timed rounds, ≥ 1; None for the preset's own number.
      profile: folder for profiles of one more, untimed round of each case; None for no profile.
    """

    preset: str = "quick"
    dtype: str = "float32"
    rounds: int | None = None
    profile: Path | None = None


class Preset(NamedTuple):
    """What is measured, in a form of the benchmark's own, and how many rounds are timed."""

    plan: Any
    rounds: int


class Setup(NamedTuple):
    """What the cases of a run are measured with: as in `Settings`, and the peers that are installed."""

    dtype: str
    rounds: int
    profile: Path | None
    peers: Sequence[Peer]

    def folder(self, *parts: object) -> Path | None:
        """Where the profile of a case goes, if anywhere."""
        return self.profile and self.profile / "-".join(map(str, parts))


class Benchmark(NamedTuple):
    """A question that is answered by measurement.

    Attributes:
      name: on the command line.
      claim: what holds or fails, in a line.
      legend: what the columns mean, one entry a line.
      columns: of the table.
      presets: "quick" and "full".
      cases: `(plan, setup) -> cases`, see `tables`; one by one, as they are measured.
      verdicts: `(cases, rounds) -> verdicts`.
      peers: those that are compared where they are installed.
      packages: whose versions are recorded.
      pivots: the tables of the documentation; that of the terminal if there are none.
    """

    name: str
    claim: str
    legend: Sequence[str]
    columns: Sequence[tables.Column]
    presets: Mapping[str, Preset]
    cases: Callable[[Any, Setup], Iterator[Case]]
    verdicts: Callable[[Sequence[Case], int], list[dict[str, Any]]]
    peers: Sequence[Peer] = ()
    packages: Sequence[str] = ()
    pivots: Sequence[tables.Pivot] = ()


def run(benchmark: Benchmark, settings: Settings) -> dict[str, Any]:
    """Measure what the preset asks for, printing rows as they come; the record to keep.

    Raises:
      BenchmarkError: if the contenders do not compute the same.
    """
    plan, rounds = benchmark.presets[settings.preset]
    rounds = rounds if settings.rounds is None else settings.rounds
    peers, skipped = installed(benchmark.peers)
    record: dict[str, Any] = {
        "benchmark": benchmark.name,
        "claim": benchmark.claim,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {
            "preset": settings.preset,
            "dtype": settings.dtype,
            "rounds": rounds,
            "matmul_precision": "highest",
            "plan": records.plain(plan),
        },
        "device": records.device(),
        "versions": records.versions(benchmark.packages),
        "skipped": skipped,
        "cases": [],
    }
    print("\n".join(_heading(benchmark, record)))
    # Full precision on every device, so that float32 means the same everywhere.
    with jax.enable_x64(settings.dtype == "float64"), jax.default_matmul_precision("highest"):
        for case in benchmark.cases(plan, Setup(settings.dtype, rounds, settings.profile, peers)):
            record["cases"].append(case)
            print("\n".join(tables.lines(benchmark.columns, tables.rows([case]))), flush=True)
    record["verdicts"] = benchmark.verdicts(record["cases"], rounds)
    print("\n".join(_conclusion(record)))
    return record


def machine(record: Mapping[str, Any]) -> str:
    """The device and the versions of a record, in a line."""
    device = record["device"]
    if device["platform"] == "cpu":
        name = f"{device['processor']}, {device['cores']} cores"
    else:
        name = f"{device['kind']}, in a host of {device['cores']} cores"
    if device["load"]:
        name += f", load {device['load'][0]:.1f} when it began"
    hidden = ("python", "rnn_jax", "jaxlib", "numpy")
    packages = [f"{p} {v}" for p, v in record["versions"].items() if v and p not in hidden]
    return f"{device['platform']}: {name}; {', '.join(packages)}"


def _heading(benchmark: Benchmark, record: Mapping[str, Any]) -> list[str]:
    settings = record["settings"]
    return [
        benchmark.claim,
        f"{settings['dtype']}, preset {settings['preset']}, rounds: {settings['rounds']}",
        machine(record),
        "",
        *benchmark.legend,
        "",
        tables.head(benchmark.columns),
    ]


def _conclusion(record: Mapping[str, Any]) -> list[str]:
    """The lines under the table: what was skipped, and the verdicts."""
    skipped = [f"skipped: {name} ({reason})" for name, reason in record["skipped"].items()]
    return ["", *skipped, *(_sentence(verdict) for verdict in record["verdicts"])]


def _sentence(verdict: Mapping[str, Any]) -> str:
    measured = tables.measured(verdict["measured"])
    expected = f" ({verdict['expected']})" if verdict["expected"] else ""
    note = f"; {verdict['note']}" if verdict["note"] else ""
    return f"{verdict['verdict']:12} {verdict['claim']}: {measured}{expected}{note}"
