"""Memory that Python allocates within a block."""

import tracemalloc


class Traced:
    """What is allocated within it: `peak`, in bytes."""

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
