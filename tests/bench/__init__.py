"""Benchmark: compares the speed of this project with other software. Run `python -m tests.bench`."""

import engine as engine  # Before torch: it limits how long torch's threads spin.
