"""Pages for Flower: ``celery -A app minsched flower``."""
