"""Learning a synthetic task: what the experiments that ask for it share.

    training   fresh sequences at every update; the held-out loss, and how far the gradient reaches, on the way
    views      learning curves and the gradient against lag, as figures and as a table
"""
