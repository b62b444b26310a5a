from .test_node import *  # noqa


def test_debug(celery_setup, celery_setup_config):
    a = celery_setup.app
    print("CONFIG", celery_setup_config)
    print("URL", a.conf.broker_url, a.conf.broker_write_url, a.conf.broker_read_url, a.configured)
    print("MAPS", [dict(m) for m in a.conf.maps[:-1]])
    print("CONN", a.connection_for_write().as_uri())
    assert 0
