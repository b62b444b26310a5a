"""Moves jobs in from ordinary queues and from the original specification, and out again."""
