"""`python -m service.cli` runs the command `denoise`."""

from service.cli import main

main()
