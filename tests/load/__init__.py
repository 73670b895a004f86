"""Load test: the service under load, and after a kill. Usage: `python -m tests.load --help`."""
