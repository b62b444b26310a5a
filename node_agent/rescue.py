"""What a process of a node leaves behind: messages that it had taken and not acknowledged.

They lie in the node's ``unacked`` hash, and each names the job's own list as its place
(:class:`NodeQoS`), so putting one back parks it, and the scheduler places the job anew.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.transport.redis import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from celery_minsched.keys import job_queue_name

from .requests import job_id_of


class NodeQoS(QoS):
    """kombu's book of unacknowledged messages, in which a job's message belongs to its own list.

    Whatever puts it back there (a requeue, a shutdown, a lost connection, a rescue) so parks it.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        delivered = message.delivery_info
        if job_id := job_id_of(message.headers):
            message.delivery_info = {
                **delivered,
                "exchange": "",
                "routing_key": job_queue_name(job_id),
            }
        super().append(message, delivery_tag)  # writes exchange and routing key (kombu 5.7)
        message.delivery_info = delivered


def put_back(app: Celery) -> set[str]:
    """Put back all that this node's keys hold; the jobs whose messages are parked now.

    Only for the time when nothing that the node has taken is in use: before it consumes.
    """
    jobs = set()
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        for tag, entry in channel.client.hgetall(channel.unacked_key).items():
            message, _, _ = loads(bytes_to_str(entry))
            jobs.add(job_id_of(message.get("headers")))
            channel.qos.restore_by_tag(bytes_to_str(tag))
    return jobs - {""}
