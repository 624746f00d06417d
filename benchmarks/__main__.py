"""The command line: `python -m benchmarks list`, `NAME`, `all`, and `document` for docs/performance.md."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jax

from benchmarks import (
    compilation,
    devices,
    document,
    gradient,
    laboratory,
    memory,
    records,
    roofline,
    runner,
    scaling,
    stacks,
)
from benchmarks.harness import BenchmarkError
from benchmarks.runner import Benchmark, Settings

MODULES = (gradient, memory, compilation, roofline, scaling, devices, stacks, laboratory)
BENCHMARKS: dict[str, Benchmark] = {module.BENCHMARK.name: module.BENCHMARK for module in MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name == "list":
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:12} {benchmark.claim}")
        return 0
    try:
        if options.name == "document":
            document.update(BENCHMARKS, options.records)
            return 0
        if options.records:
            parser.error(f"records are for document; {options.name} takes none.")
        # Before the minutes of compiling and measuring, not after them.
        for folder in filter(None, (options.output, options.profile)):
            records.check_writable(folder)
    except BenchmarkError as error:
        parser.error(str(error))
    names = list(BENCHMARKS) if options.name == "all" else [options.name]
    return max([_measure(BENCHMARKS[name], options, parser.prog) for name in names])


def _measure(benchmark: Benchmark, options: argparse.Namespace, program: str) -> int:
    """One benchmark and its record; the exit status. One that fails does not keep the next from running."""
    profile = options.profile and options.profile / benchmark.name
    settings = Settings(options.preset, options.dtype, options.rounds, profile)
    try:
        record = runner.run(benchmark, settings)
        path = options.output / _file_name(benchmark.name, settings, record["device"]["platform"])
        records.write_json(path, record)
    except (BenchmarkError, OSError, jax.errors.JaxRuntimeError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    print(f"\nwritten to {path}\n")
    return 0


def _file_name(name: str, settings: Settings, platform: str) -> str:
    # With microseconds, no run replaces another's record.
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{name}-{settings.preset}-{settings.dtype}-{platform}-{stamp}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure a claim, print a table, and keep the record."
    )
    add = parser.add_argument
    add(
        "name",
        metavar="NAME",
        type=_one_of("list", "all", *BENCHMARKS, "document"),
        help="a benchmark; all of them, one after the other; list to see them; or document, which takes records over "
        "into docs/benchmarks and writes the tables and pictures of docs/performance.md",
    )
    add("records", metavar="RECORD", nargs="*", type=Path, help="for document: files that a benchmark wrote")
    add(
        "--preset",
        type=_one_of("quick", "full"),
        default="quick",
        help="quick (the default), or full: all shapes",
    )
    add(
        "--dtype",
        type=_one_of("float32", "float64"),
        default="float32",
        help="float32 (the default) or float64",
    )
    add("--rounds", metavar="N", type=_rounds, help="timed rounds, instead of the preset's")
    add(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("results/benchmarks"),
        help="where the record goes (results/benchmarks)",
    )
    add("--profile", metavar="DIR", type=Path, help="also profile one more round of each case into DIR")
    return parser


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; expected one of: {', '.join(allowed)}.")
        return text

    return parse


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} rounds cannot be timed; expected an integer >= 1, such as 9."
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
