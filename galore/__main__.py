"""`python -m galore`: the console script, where it is not on the path."""

from galore.cli.entry import main

if __name__ == "__main__":
    main()
