"""The training client: a webdataset dataset and loader whose epochs a score server prunes.

Its public names are in `infobatch_stream`. Nothing that takes time is imported here, so that commands that need no
torch start fast.
"""

import sys

if sys.platform == "win32":
    raise ImportError("infobatch-stream runs on Linux and macOS, not on Windows; Linux under WSL2 is fine")
