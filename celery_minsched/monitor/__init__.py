"""Read-only questions about nodes, pools, jobs and lines. Imports neither Celery nor kombu."""
