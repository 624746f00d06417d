"""Gradient flow in recurrent networks, as pure functions.

The file list is the table of contents. Import the modules: `from rnn_jax import bptt, cells, jacobians, unroll`.

    types         the alphabet of shapes, the time-index convention, what a step and a cell are
    initializers  recurrent matrices and biases
    constraints   weights held orthogonal, near it, or at a spectral norm of 1
    cells         the recurrences: Elman, leaky, GRU, LSTM, stacks of them; with layer normalisation, dropout, zoneout
    readout       ŷ_t = g(W_hy h_t + b_y)
    losses        L = Σ_t L_t, masked
    unroll        a step along a sequence
    pullbacks     transposed derivatives of single steps, for every kind of cell
    sweeps        the forward and the backward sweep along time, chunk by chunk
    bptt          backpropagation through time, by hand
    clipping      δ_t clipped inside the backward pass, and what a global norm is instead
    jacobians     ∂h_t/∂h_{t−1}, ∂h_t/∂x_t and immediate ∂h_t/∂θ of every step
    products      products of Jacobians that neither under- nor overflow
    streaming     their norms along a trajectory, the stack of Jacobians never held
    orthogonal    orthonormal frames from matrix products
    spectrum      singular values of products, Lyapunov exponents, dimension, entropy
    graded        singular values of one matrix, however far apart they are
    flow          the gradient-flow profile: who sends how much gradient to whom, across which lag
    regularizers  losses that mend gradients: Ω, gradient flossing
    decay         curves of log-norms against lag: their rate, the effective horizon
    recording     a measurement every so many updates of a training
    tasks         what a network is put to: copying, adding, flip-flops, …, drawn from a key, with exact chance levels
    datasets      real sequences, from installed packages or from the standard files
    plotting      results drawn on an axis of yours
    drawing       what its pictures are made of
    tables        results as text
"""

__version__ = "0.1.0"
