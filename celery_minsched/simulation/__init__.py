"""Simulates jobs on a fleet: real scripts on an empty Redis, played nodes and publishers.

The clock jumps from one event to the next. The scripts make all decisions.
"""
