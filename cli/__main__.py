"""`python -m batchmill.cli` is `batchmill`."""

from batchmill.cli.main import main

if __name__ == "__main__":
    main()
