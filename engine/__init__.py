"""The denoiser as a library: networks, their gradients and their training, by hand on plain tensors."""

import os

# After a parallel operation of torch, its threads (libgomp's) spin for some milliseconds, in case another one
# follows. The kernels' threads need those cores meanwhile: a training step took up to a third longer. torch by
# itself is as fast with this value. It is read when torch is imported, so this has to come first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
