# Prefect's server and worker, and the flows that launch trainings. No torch.
#
#   docker compose build credentials
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9

# Runs on the machine that builds, for whichever processor the image is: it asks the image's Python what to install.
FROM --platform=${BUILDPLATFORM} ${UV_IMAGE} AS uv

FROM ${PYTHON_IMAGE}
SHELL ["/bin/sh", "-eu", "-c"]

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/*

# Volumes mounted here take over the owner.
RUN useradd --uid 1000 --create-home pippa \
    && install -d -o pippa -g pippa /var/lib/pippa /var/lib/pippa/cache /var/lib/pippa/prefect /var/lib/pippa/runs

ENV UV_PROJECT_ENVIRONMENT=/opt/pippa \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    PATH=/opt/pippa/bin:$PATH

WORKDIR /src
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    uv sync --frozen --no-default-groups --group flows --no-install-project

# Reinstalled, since uv would take the wheel it built from an earlier state of these files out of its cache.
COPY pyproject.toml uv.lock README.md LICENSE NOTICE ./
COPY trainer trainer
COPY flows flows
COPY pippa pippa
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=docker/git-revision,target=/usr/local/bin/git-revision \
    --mount=type=bind,target=/context \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    uv sync --frozen --no-default-groups --group flows --no-editable --reinstall-package pippa; \
    sh /usr/local/bin/git-revision /context > /opt/pippa/pippa-revision
COPY --chmod=755 docker/entrypoint /usr/local/bin/entrypoint

ARG PIPPA_SOURCE=""
ARG PIPPA_GIT_SHA=""
# pippa's own licence; each package it installs declares its own in /opt/pippa.
LABEL org.opencontainers.image.title="pippa flows, with Prefect" \
      org.opencontainers.image.source="${PIPPA_SOURCE}" \
      org.opencontainers.image.revision="${PIPPA_GIT_SHA}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIPPA_HOME=/var/lib/pippa \
    PIPPA_INSIDE=1 \
    PIPPA_GIT_SHA=${PIPPA_GIT_SHA} \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    PYTHONUNBUFFERED=1

USER 1000
WORKDIR /var/lib/pippa
# It serves, works and runs single flows: compose.yaml says for each how to tell that it is well.
HEALTHCHECK NONE
ENTRYPOINT ["entrypoint"]
CMD ["pippa", "--help"]
