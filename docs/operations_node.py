"""A node of docs/operations.md: ``node_agent`` with a fixed load.

Arguments: cpu and memory in percent, then the arguments of ``node-agent``.
"""

from __future__ import annotations

import sys

from node_agent.cli import main
from node_agent.load import LoadMeter

_, cpu, memory, *arguments = sys.argv
# The pulse is forked from this process, so it reports this load too.
LoadMeter.read = lambda self: {"cpu": float(cpu), "mem": float(memory)}  # type: ignore[method-assign]
sys.argv[1:] = arguments
main()
