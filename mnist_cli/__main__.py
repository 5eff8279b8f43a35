"""The command ``mnist``, also as ``python -m mnist_cli``."""

import gc
import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being imported ends it quietly too."""
    # Imports allocate many objects and free few: with the default of 700 a start takes some 10 ms more.
    gc.set_threshold(100_000)
    try:
        from mnist_cli.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
