"""`python -m gan3d` is `gan3d`."""

import sys

from gan3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
