"""``python -m litmaml``."""

import os
import sys

if __name__ == "__main__":
    # Python puts the current folder first, where somebody else's file could take the place of an installed package.
    if sys.path[0] in ("", os.getcwd()):
        sys.path.append(sys.path.pop(0))
    from litmaml.cli import main

    main()
