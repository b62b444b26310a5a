"""``python -m node_agent``."""

from .cli import main

main()
