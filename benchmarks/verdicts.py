"""What measurements say of a claim.

A claim about time holds or fails with both quartiles of its ratio, and is inconclusive while the target lies
between them, or with fewer rounds than five: the quartiles are then one and the same round, or neighbours.
What is counted rather than timed has one value, and no rounds.
"""

from collections.abc import Mapping
from typing import Any

HOLDS, FAILS, INCONCLUSIVE, REPORTED = "holds", "fails", "inconclusive", "reported"

ENOUGH_ROUNDS = 5


def at_least(
    claim: str, target: float, measured: Mapping[str, float] | float | None, rounds: int | None = None
) -> dict[str, Any]:
    """The verdict on measured ≥ target.

    Args:
      claim: in words.
      target: to be reached.
      measured: a spread with quartiles, or one number; None where it could not be measured, which is reported.
      rounds: how many were timed; None for a number that was counted.

    >>> at_least("twice as fast", 2.0, {"lower_quartile": 2.1, "median": 2.3, "upper_quartile": 2.4}, 9)["verdict"]
    'holds'
    >>> at_least("twice as fast", 2.0, {"lower_quartile": 1.9, "median": 2.3, "upper_quartile": 2.4}, 9)["verdict"]
    'inconclusive'
    """
    return _verdict(claim, "≥", target, measured, rounds)


def at_most(
    claim: str, target: float, measured: Mapping[str, float] | float | None, rounds: int | None = None
) -> dict[str, Any]:
    """The verdict on measured ≤ target.

    >>> at_most("no product in the loop", 0, 1)["verdict"]
    'fails'
    """
    return _verdict(claim, "≤", target, measured, rounds)


def reported(claim: str, measured: float | None, note: str = "") -> dict[str, Any]:
    """A number without a target.

    >>> reported("exponent in N", 1.5, "± 0.1")["expected"]
    ''
    """
    return {"claim": claim, "expected": "", "measured": measured, "note": note, "verdict": REPORTED}


def _verdict(claim, relation, target, measured, rounds):
    if measured is None:
        return reported(claim, None, "not measured here")
    quartiles = None
    if isinstance(measured, Mapping):
        quartiles = [measured["lower_quartile"], measured["upper_quartile"]]
        measured = measured["median"]
    reached = {value >= target if relation == "≥" else value <= target for value in quartiles or [measured]}
    if len(reached) == 2 or (rounds is not None and rounds < ENOUGH_ROUNDS):
        verdict = INCONCLUSIVE
    else:
        verdict = HOLDS if reached == {True} else FAILS
    return {
        "claim": claim,
        "expected": f"{relation} {target:.3g}",
        "measured": measured,
        "quartiles": quartiles,
        "note": "",
        "verdict": verdict,
        # Above 1 by as much as the target is missed, whichever way it is asked for.
        "missed_by": None if not measured or not target else _missed(relation, target, measured),
    }


def _missed(relation: str, target: float, measured: float) -> float:
    return target / measured if relation == "≥" else measured / target
