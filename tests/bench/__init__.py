"""How fast the project is beside other software, measured in turns in one process: `python -m tests.bench`."""
