"""``python main.py COMMAND ...``; ``python main.py --help`` names the commands."""

import sys

from actbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
