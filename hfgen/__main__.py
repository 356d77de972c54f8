"""`python -m hfgen` is `hfgen`."""

import sys

from hfgen.cli.main import main

sys.exit(main())
