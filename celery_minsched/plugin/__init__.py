"""What runs inside a Celery application."""
