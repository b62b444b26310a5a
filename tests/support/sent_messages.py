"""The messages that wait in a server, without the ids that differ each time."""

from __future__ import annotations

import base64
import json
from typing import Any

import redis


def sent(client: redis.Redis) -> list[dict[str, Any]]:
    """All messages in the order of their jobs, without the ids that differ each time."""
    messages = []
    for key in client.keys("minsched.job.*") + client.keys("celery"):
        for raw in client.lrange(key, 0, -1):
            message = json.loads(raw)
            headers, properties = message["headers"], message["properties"]
            ids = {headers.pop("id"), headers.pop("root_id"), properties.pop("correlation_id")}
            assert len(ids) == 1
            assert len(properties.pop("delivery_tag")) == 36
            order = int(headers.get("minsched", {"job_id": ":0"})["job_id"].rpartition(":")[2])
            headers.get("minsched", {}).pop("job_id", None)
            for when in ("eta", "expires"):
                headers[when] = bool(headers[when])
            message["body"] = json.loads(base64.b64decode(message["body"]))
            for later in message["body"][2]["chain"] or ():
                later["options"].pop("task_id")
            messages.append((order, message))
    client.flushall()
    return [message for _, message in sorted(messages, key=lambda pair: pair[0])]


def numbers(client: redis.Redis) -> list[int]:
    """The first argument of each message, in the order of their jobs."""
    return [message["body"][0][0] for message in sent(client)]
