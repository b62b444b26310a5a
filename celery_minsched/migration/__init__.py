"""Moving jobs in from other queues, out to them, and from an earlier layout."""
