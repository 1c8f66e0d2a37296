"""`python -m pipeline` is `deploy`."""

from pipeline.cli import main

main()
