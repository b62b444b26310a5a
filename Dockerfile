# The image of docker-compose.yml. The command selects a node, Flower or the producer. The
# application is examples/demo_app.py.
ARG PYTHON_IMAGE=python:3.11.15-slim
FROM ${PYTHON_IMAGE}
ENV PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY celery_minsched celery_minsched
COPY node_agent node_agent
RUN pip install --no-cache-dir '.[flower]'

WORKDIR /app
COPY examples/demo_app.py examples/compose_app.py ./
USER nobody
CMD ["node-agent"]
