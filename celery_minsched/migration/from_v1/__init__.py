"""Converts the data of the original specification to this layout, see docs/migration.md.

In the original specification, a node's slots were a bare counter, jobs stayed for ever, and there
was no list of nodes. ``survey`` only reads. ``carry_over`` makes small changes, each in one step
and each safe to repeat, and sets the layout last. After an interruption it runs again. ``history``
saves the jobs to a file.
"""
