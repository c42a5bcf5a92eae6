"""``python -m litmaml``."""

import os
import sys

if __name__ == "__main__":
    # Python puts the current folder first, where somebody else's file could take the place of an installed package.
    # In processes that the program starts it is left out, and searched last all the same.
    sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())] + [os.getcwd()]
    from litmaml.cli.start import main

    main()
