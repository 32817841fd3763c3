"""`commandr serve` under clients that misbehave, for ten minutes: python tests/bench/soak.py [--seconds 600]

See tests/server/soak.py for what they do. Prints the server's resident memory over the time and what went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from server.soak import Soak
from server.soaking import served_demo


def main() -> int:
    parser = argparse.ArgumentParser(description="A server under clients that misbehave.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=12)
    options = parser.parse_args()
    with served_demo() as (port, pid):
        soak = Soak(port, pid)
        report = asyncio.run(soak.run(options.seconds, options.clients))
    step = max(1, len(report.memory) // 20)
    for when, size in report.memory[::step]:
        print(f"{when:6.0f} s  {size / 2**20:7.1f} MiB")
    print(f"behind the warm-up it grew by {report.growth / 2**20:.1f} MiB")
    print(*(f"{n:7d}  {name}" for name, n in sorted(report.done.items())), sep="\n")
    print(f"{len(report.wrong)} things were wrong", *report.wrong[:20], sep="\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
