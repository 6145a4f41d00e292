"""``python -m actbench`` is ``python main.py``."""

import sys

from actbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
