"""`python -m pipeline` is `deploy`."""

from pipeline.cli.app import main

main()
