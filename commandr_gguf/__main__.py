"""`python -m commandr_gguf` is the command `commandr`."""

import sys

from commandr_gguf.cli import main

sys.exit(main())
