# The native engine: GR00T N1.5 in torch and transformers. CUDA comes with torch's wheels, so that one image trains the
# 3B model on a GPU and the tiny one on a CPU. Neither weights nor data are in it.
#
#   docker compose build trainer
#   docker run --rm --gpus all --shm-size 8g pippa/trainer:local trainer doctor
#
# Tags, not digests: a mirror or a rebuilt base can be put in their place by build argument.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9

# Runs on the machine that builds, for whichever processor the image is: it asks the image's Python what to install.
FROM --platform=${BUILDPLATFORM} ${UV_IMAGE} AS uv

FROM ${PYTHON_IMAGE}
SHELL ["/bin/sh", "-eu", "-c"]

# git and git-lfs bring datasets that lie in git repositories.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git git-lfs tini \
    && rm -rf /var/lib/apt/lists/*

# Volumes mounted here take over the owner.
RUN useradd --uid 1000 --create-home pippa \
    && install -d -o pippa -g pippa /var/lib/pippa /var/lib/pippa/cache /var/lib/pippa/runs

ENV UV_PROJECT_ENVIRONMENT=/opt/pippa \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    PATH=/opt/pippa/bin:$PATH

# The dependencies are a layer of their own: a change of the code costs megabytes, not gigabytes. uv is mounted, not
# installed, and every dependency is a wheel, so there is nothing to leave behind in an earlier stage.
WORKDIR /src
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    uv sync --frozen --no-default-groups --group trainer --no-install-project

# Reinstalled, since uv would take the wheel it built from an earlier state of these files out of its cache. By its
# name: a sync would install a dependency a second time whose wheel contradicts its own name, as cuSPARSELt's for arm64.
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
    uv pip install --python /opt/pippa --no-deps --reinstall-package pippa .; \
    sh /usr/local/bin/git-revision /context > /opt/pippa/pippa-revision

ARG PIPPA_SOURCE=""
ARG PIPPA_GIT_SHA=""
# pippa's own licence; each package it installs declares its own in /opt/pippa.
LABEL org.opencontainers.image.title="pippa trainer, native engine" \
      org.opencontainers.image.source="${PIPPA_SOURCE}" \
      org.opencontainers.image.revision="${PIPPA_GIT_SHA}" \
      org.opencontainers.image.licenses="Apache-2.0"
# NVIDIA's container runtime refuses an older driver than the wheels' CUDA needs; torch alone would use the CPU.
ENV PIPPA_ENGINE=native \
    PIPPA_HOME=/var/lib/pippa \
    PIPPA_GIT_SHA=${PIPPA_GIT_SHA} \
    HF_HOME=/var/lib/pippa/cache/huggingface \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=13.0" \
    PYTHONUNBUFFERED=1

USER 1000
WORKDIR /var/lib/pippa
# A training says itself how it does, on stdout; a probe would only take its processor.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--"]
CMD ["trainer", "doctor"]
