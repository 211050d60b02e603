"""`python -m rlent` is `rlent`."""

from rlent.cli.app import main

if __name__ == "__main__":
    main()
