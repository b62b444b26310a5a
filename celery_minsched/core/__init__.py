"""The scheduler on Redis: keys, scripts, models. Imports neither Celery nor kombu."""
