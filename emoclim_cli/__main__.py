"""`python -m emoclim_cli` is the same program as `emoclim`."""

from emoclim_cli.cli import main

if __name__ == "__main__":
    main()
