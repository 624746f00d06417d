"""Benchmarks: one file a claim, run with `python -m benchmarks NAME`.

gradient      the gradient of a sequence: by hand, by automatic differentiation, by other libraries
memory        what it allocates, for every way of keeping the forward pass
compile       how long it takes to compile
roofline      how far it is from the products that it cannot do without
scaling       how its time grows with T, N and B
devices       a batch shared among devices
jacobians     stacks of Jacobians
laboratory    products, exponents, spectra and profiles, against the plain forms that one would write first

runner        one run of a benchmark: cases, rows, verdicts, record
harness       compile, take turns at the clock
workloads     the gradient that is asked for, and its sizes
questions     the same for functions that answer alike
peers         the others, one file each
loops         what a traced program does inside its loops
records       what was measured on what, in a file
verdicts      what it says of the claim
tables        the same table in a terminal and in Markdown
document      the tables of docs/performance.md from the records, and its pictures
"""
