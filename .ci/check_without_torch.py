"""Checks an installation without torch: it imports, and names the extra that torch comes with."""

from __future__ import annotations

import importlib.util
import sys

import infobatch_stream
from infobatch_stream import errors

if importlib.util.find_spec("torch") is not None:
    sys.exit("torch is installed here: this check needs an environment without it")
assert infobatch_stream.ConfigError is errors.ConfigError
for name in ("InfoBatchStreamDataset", "InfoBatchLoader"):
    try:
        getattr(infobatch_stream, name)
    except ImportError as error:
        if "infobatch-stream[train]" not in str(error):
            sys.exit(f"{name}: the error does not name the extra: {error}")
    else:
        sys.exit(f"{name} imported without torch")
print(f"infobatch-stream {infobatch_stream.__version__} imports without torch")
