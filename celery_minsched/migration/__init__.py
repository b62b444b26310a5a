"""Moves jobs from ordinary queues and from the original specification to nodes, and back."""
