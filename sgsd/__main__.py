"""`python -m sgsd`, for when the script is not on the path."""

import sys

from sgsd.cli import main

sys.exit(main())
