"""Real servers on one machine, started and stopped by name: what a cluster is elsewhere."""

import os
from pathlib import Path

#: Where the servers are installed (each in a folder of its name) and keep their data (``run``).
HOME = Path(os.environ.get("STACK_HOME") or ".stack")
