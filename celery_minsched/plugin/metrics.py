"""Registers the metrics of a Celery application's scheduler with Prometheus."""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError
from prometheus_client import CollectorRegistry
from redis.exceptions import ConnectionError as RedisConnectionError

from ..monitor.metrics import SchedulerCollector
from ..monitor.queries import Views
from .plugin import plugin_of


def register(app: Celery, registry: CollectorRegistry) -> SchedulerCollector:
    """Add the metrics of the application's scheduler to ``registry``.

    The first scrape connects to Redis.
    """

    def views() -> Views:
        try:
            return plugin_of(app).views
        except OperationalError as exc:  # kombu's error if the broker is unreachable
            raise RedisConnectionError(str(exc)) from exc

    collector = SchedulerCollector(views)
    registry.register(collector)
    return collector
