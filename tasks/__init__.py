"""Lighterage's tasks: download datasets from hosts that are reachable only by SSH."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # `python -m tasks`, which loads more before it can handle signals
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process without a traceback
