"""`python -m infobatch_stream`: the `infobatch` command where its script is not on the PATH."""

import sys

from infobatch_stream.cli import main

sys.exit(main())
