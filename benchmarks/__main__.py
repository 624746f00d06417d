"""The command line: `python -m benchmarks list` and `python -m benchmarks NAME`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import gradient, harness, laboratory

BENCHMARKS = {"gradient": gradient, "laboratory": laboratory}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name == "list":
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:12} {benchmark.CLAIM}")
        return 0
    try:
        # Before the minutes of compiling and measuring, not after them.
        for folder in filter(None, (options.output, options.profile)):
            harness.check_writable(folder)
    except harness.BenchmarkError as error:
        parser.error(str(error))
    settings = harness.Settings(options.preset, options.dtype, options.rounds, options.profile)
    try:
        record = BENCHMARKS[options.name].run(settings)
        path = options.output / _file_name(options.name, settings, record["device"]["platform"])
        harness.write_json(path, record)
    except (harness.BenchmarkError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(f"\nwritten to {path}")
    return 0


def _file_name(name: str, settings: harness.Settings, platform: str) -> str:
    # With microseconds, no run replaces another's record.
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{name}-{settings.preset}-{settings.dtype}-{platform}-{stamp}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure a claim, print a table, and keep the record."
    )
    add = parser.add_argument
    add("name", metavar="NAME", type=_one_of("list", *BENCHMARKS), help="a benchmark, or list to see them")
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
