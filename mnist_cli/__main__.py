"""The command ``mnist``, also as ``python -m mnist_cli``."""

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being imported ends it quietly too."""
    try:
        from mnist_cli.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
