"""``python -m captum_deduce`` is ``captum-deduce``."""

import sys

from captum_deduce.commands import main

if __name__ == "__main__":
    sys.exit(main())
