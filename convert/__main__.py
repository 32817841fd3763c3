"""Runs the command line: ``python -m convert CHECKPOINT``."""

from convert.cli import main

raise SystemExit(main())
