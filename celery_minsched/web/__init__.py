"""Pages about nodes, pools and what waits, inside Flower: ``celery -A app minsched flower``."""
