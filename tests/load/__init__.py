"""The service under load, and after a kill. Commands: `python -m tests.load --help`."""
