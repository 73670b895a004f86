"""`python -m service.cli`, which is `denoise`."""

from service.cli import main

main()
