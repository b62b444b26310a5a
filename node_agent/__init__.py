"""What runs on a node: a Celery worker that consumes the node's own queue and no other."""
