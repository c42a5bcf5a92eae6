"""``python -m litmaml``."""

from litmaml.cli import main

if __name__ == "__main__":
    main()
