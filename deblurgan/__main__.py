"""`python -m deblurgan`."""

import sys

from deblurgan.cli import main

sys.exit(main())
