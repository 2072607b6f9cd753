"""`python -P -m runyard_agent --local --home DIR --daemon-socket SOCK --blobs DIR [--slots N]`."""

import os
import sys

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when grpc loads; its lines are no JSON

from runyard_agent.main import main

if __name__ == "__main__":
    sys.exit(main())
