"""``python -m gtn_lightning``: the command ``gtn``, where it is not on the PATH."""

import sys

from gtn_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
