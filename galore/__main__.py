"""`python -m galore`: what the console script does."""

from galore.cli.main import main

main()
