"""``python -m freeroam``."""

from __future__ import annotations

import sys

from freeroam.cli import main

sys.exit(main())
