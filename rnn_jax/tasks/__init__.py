"""What a network is put to: the synthetic tasks of the literature, as pure functions of a key (see `tasks.task`)."""

from rnn_jax.tasks.marked import adding as adding
from rnn_jax.tasks.marked import multiplication as multiplication
from rnn_jax.tasks.marked import temporal_order as temporal_order
from rnn_jax.tasks.recall import copy_memory as copy_memory
from rnn_jax.tasks.recall import memorization as memorization
from rnn_jax.tasks.recall import random_permutation as random_permutation
from rnn_jax.tasks.streams import ADD_FLOORS as ADD_FLOORS
from rnn_jax.tasks.streams import AddFloors as AddFloors
from rnn_jax.tasks.streams import chaotic_teacher as chaotic_teacher
from rnn_jax.tasks.streams import delayed_copy as delayed_copy
from rnn_jax.tasks.streams import delayed_xor as delayed_xor
from rnn_jax.tasks.streams import flip_flop as flip_flop
from rnn_jax.tasks.streams import parity as parity
from rnn_jax.tasks.streams import probabilistic_add as probabilistic_add
from rnn_jax.tasks.task import Batch as Batch
from rnn_jax.tasks.task import Task as Task
from rnn_jax.tasks.task import wrong as wrong
