# Upstream's engine for GR00T N1.7: NVIDIA/Isaac-GR00T with the versions that its lock file pins (/opt/isaac), and `trainer`
# beside it in another environment (/opt/pippa), which fetches data and model, watches the training and keeps its
# checkpoints. Neither weights nor data are in the image. docs/engines.md says when to use it and what was tried.
#
#   docker build -f docker/isaac-n17.Dockerfile -t pippa/isaac-n17:local .
#
# With CUDA's compiler, as upstream's own image: DeepSpeed looks for it when it is imported.
ARG CUDA_IMAGE=nvidia/cuda:12.8.0-devel-ubuntu22.04
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9

FROM ${UV_IMAGE} AS uv

# Empty. `--build-context isaac=PATH` puts a local checkout in its place, and the network is not asked.
FROM scratch AS isaac

FROM ${CUDA_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV UV_PYTHON_INSTALL_DIR=/opt/python \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
# Versions of Debian's and Ubuntu's packages are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /opt/python \
    && git config --global --add safe.directory '*'

FROM build AS engine
ARG ISAAC_REPOSITORY=https://github.com/NVIDIA/Isaac-GR00T.git
# Of 26 May 2026, which the native engine is compared with. A branch or a tag does as well.
ARG ISAAC_REF=626af89d3e914ec92eab5323e23b9ed44a7b26c8
WORKDIR /opt/isaac-gr00t
# One commit, without its demo data: datasets come from the object store.
RUN --mount=type=bind,from=isaac,target=/checkout \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export GIT_SSL_CAINFO=/run/secrets/ca; fi; \
    repository="${ISAAC_REPOSITORY}"; \
    if [ -e /checkout/.git ]; then repository=file:///checkout; fi; \
    git init --quiet; \
    git fetch --quiet --depth 1 "$repository" "${ISAAC_REF}"; \
    GIT_LFS_SKIP_SMUDGE=1 git checkout --quiet FETCH_HEAD; \
    git rev-parse HEAD > ISAAC_COMMIT; \
    rm -rf .git demo_data

ARG PYTHON_VERSION=3.10
# flash-attn is a wheel that upstream's lock names.
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    export UV_PROJECT_ENVIRONMENT=/opt/isaac; \
    if [ -f uv.lock ]; then export UV_FROZEN=1; fi; \
    uv sync --no-dev --python "${PYTHON_VERSION}"

FROM build AS pippa
ENV UV_PROJECT_ENVIRONMENT=/opt/pippa
ARG PIPPA_PYTHON_VERSION=3.11
WORKDIR /src
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    uv sync --frozen --python "${PIPPA_PYTHON_VERSION}" --no-default-groups --group run --no-install-project
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
    uv sync --frozen --python "${PIPPA_PYTHON_VERSION}" --no-default-groups --group run --no-editable --reinstall-package pippa; \
    sh /usr/local/bin/git-revision /context > /opt/pippa/pippa-revision

FROM ${CUDA_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# What upstream's packages load (torchcodec: ffmpeg; OpenCV: libGL and GLib), then what `trainer` needs.
ARG ENGINE_PACKAGES="ffmpeg libegl1 libgl1 libglib2.0-0"
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git git-lfs tini ${ENGINE_PACKAGES} \
    && rm -rf /var/lib/apt/lists/*
# Volumes mounted here take over the owner.
RUN useradd --uid 1000 --create-home pippa \
    && install -d -o pippa -g pippa /var/lib/pippa /var/lib/pippa/cache /var/lib/pippa/runs
COPY --from=engine /opt/python /opt/python
COPY --from=pippa /opt/python /opt/python
COPY --from=engine /opt/isaac-gr00t /opt/isaac-gr00t
COPY --from=engine /opt/isaac /opt/isaac
COPY --from=pippa /opt/pippa /opt/pippa

ARG PIPPA_SOURCE=""
ARG PIPPA_GIT_SHA=""
ARG ISAAC_REPOSITORY=https://github.com/NVIDIA/Isaac-GR00T.git
ARG ISAAC_REF=626af89d3e914ec92eab5323e23b9ed44a7b26c8
# The engine's licence and pippa's; each package they install declares its own.
LABEL org.opencontainers.image.title="pippa trainer, engine isaac-n17" \
      org.opencontainers.image.source="${PIPPA_SOURCE}" \
      org.opencontainers.image.revision="${PIPPA_GIT_SHA}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      pippa.isaac.repository="${ISAAC_REPOSITORY}" \
      pippa.isaac.ref="${ISAAC_REF}"
# /opt/pippa comes first, so that `python` and `trainer` are ours.
ENV PATH=/opt/pippa/bin:/opt/isaac/bin:$PATH \
    PIPPA_ENGINE=isaac-n17 \
    PIPPA_FINETUNE_COMMAND="/opt/isaac/bin/python /opt/isaac-gr00t/gr00t/experiment/launch_finetune.py" \
    PIPPA_EVALUATE_COMMAND="/opt/pippa/bin/python -m trainer.evaluation.upstream /opt/isaac/bin/python /opt/isaac-gr00t/gr00t/eval/open_loop_eval.py" \
    PIPPA_HOME=/var/lib/pippa \
    PIPPA_GIT_SHA=${PIPPA_GIT_SHA} \
    HF_HOME=/var/lib/pippa/cache/huggingface \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PYTHONUNBUFFERED=1

USER 1000
WORKDIR /var/lib/pippa
# A training says itself how it does, on stdout; a probe would only take its processor.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--"]
CMD ["trainer", "doctor"]
