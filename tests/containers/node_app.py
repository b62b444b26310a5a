"""The application of the worker containers. pytest-celery replaces the two lines with ``None``."""

from celery import Celery

from celery_minsched import MinSched

imports = None
app = Celery("celery_test_app")
config = None
app.config_from_object(config)
MinSched(app)
