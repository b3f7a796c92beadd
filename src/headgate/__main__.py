"""``python -m headgate``: the command line."""

import sys

from headgate.cli import main

if __name__ == "__main__":
    sys.exit(main())
