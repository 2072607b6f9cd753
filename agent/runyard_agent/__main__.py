"""`python -P -m runyard_agent --local --home DIR --daemon-socket SOCK --blobs DIR [--slots N]`."""

import sys

from runyard_agent.main import main

if __name__ == "__main__":
    sys.exit(main())
