"""How fast the project is beside other software, measured in turns in one process: `python -m tests.bench`."""

import engine as engine  # Before torch: it sets how long torch's threads spin.
