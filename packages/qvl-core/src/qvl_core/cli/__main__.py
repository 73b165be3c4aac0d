"""`python -m qvl_core.cli`: the same as `qvl`, for launchers that start Python."""

import sys

from qvl_core.cli.app import main

sys.exit(main())
