"""``python -m noisette`` is the command line."""

import sys

from noisette.cli import main

if __name__ == "__main__":
    sys.exit(main())
