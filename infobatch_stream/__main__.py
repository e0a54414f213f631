"""`python -m infobatch_stream`: the `infobatch` command, for environments without its script on the PATH."""

import sys

from infobatch_stream.cli import main

sys.exit(main())
