"""Benchmarks: one script a claim, run with `python -m benchmarks NAME`.

harness    compile, take turns at the clock, say what was measured on what, write the record
loops      what a traced program does inside its loops
gradient   the gradient of a sequence: by hand, by automatic differentiation, by Flax
laboratory products, exponents, spectra and profiles, against the plain forms that one would write first
"""
