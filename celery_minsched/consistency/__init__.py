"""Finds and repairs faults in the Redis data. See :mod:`.checker` and :mod:`.repair`."""
