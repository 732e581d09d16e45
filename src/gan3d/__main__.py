"""`python -m gan3d` is `gan3d`."""

import os
import sys

# Python puts the present folder first: a file in it would shadow a module of that name.
if sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from gan3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
