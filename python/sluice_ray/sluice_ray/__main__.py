"""`python -m sluice_ray` is the command `sluice-ray`."""

import sys

from sluice_ray.command import main

if __name__ == "__main__":
    sys.exit(main())
