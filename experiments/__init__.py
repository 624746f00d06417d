"""Experiments: one question each, asked by `python -m experiments run NAME` and answered with verdicts.

    runner      the command line, and what it asks of an experiment
    common      what more than one experiment needs
    results     a run's folder on disk: complete or absent
    verdicts    claims, intervals, tolerances, negative controls
    style       colours and lines that every figure shares
    digits      why a plain RNN forgets handwritten digits read pixel by pixel, and a gated one does not
    laboratory  where the gradient of a recurrent network comes from, and through which part of its state
    copying     which network learns to say a list again after a delay
    adding      which network learns to add two numbers that are far apart
    chorales    what a recurrent network knows of the next chord of a chorale
    cures       which cures bring a gradient back to life, and which let the network learn
    learning    what the last four share: training, looks at a network, the reach of its gradient

An experiment is a module or package with a question as the first line of its docstring and the functions
listed in `runner.Experiment`. To add one, write it and put its name below.
"""

NAMES = ("digits", "laboratory", "copying", "adding", "chorales", "cures")
"""What `python -m experiments list` shows, in this order."""
