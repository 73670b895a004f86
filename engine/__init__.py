"""An image denoiser trained without clean images: networks, gradients and training by hand on plain tensors.

The Python API is the names in `__all__`. engine/api.py defines them, except `adapt`. They load when first used,
because torch takes a second to import.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.adaptation import adapt
    from engine.api import denoise, denoise_file, estimate_noise, load_model, read_image, write_image

__all__ = ["adapt", "denoise", "denoise_file", "estimate_noise", "load_model", "read_image", "write_image"]

# After a parallel operation of torch, its threads (libgomp's) spin for some milliseconds, in case another one
# follows. The kernels' threads need those cores meanwhile: a training step took up to a third longer. torch by
# itself is as fast with this value. It is read when torch is imported, so this has to come first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    if name == "adapt":
        from engine.adaptation import adapt

        return adapt
    from engine import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
