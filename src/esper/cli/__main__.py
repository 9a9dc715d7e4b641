"""`python -m esper.cli`: the same as `esper`."""

import sys

from esper.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
