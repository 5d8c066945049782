"""Let ``python -m alq_hvd`` be the command ``alq-hvd``."""

import sys

from alq_hvd.cli import main

sys.exit(main())
