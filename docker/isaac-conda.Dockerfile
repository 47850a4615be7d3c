# Upstream's engine, installed as the blog does: NVIDIA/Isaac-GR00T in its own conda environment (/opt/isaac), and
# `trainer` beside it in another (/opt/pippa), which fetches data and model, watches the training and keeps its
# checkpoints. Neither weights nor data are in the image. docs/engines.md says when to use it and what was tried.
#
#   docker build -f docker/isaac-conda.Dockerfile -t pippa/isaac-conda:local .
ARG BUILD_IMAGE=nvidia/cuda:12.4.1-devel-ubuntu22.04
ARG RUNTIME_IMAGE=nvidia/cuda:12.4.1-base-ubuntu22.04
# conda-forge's own distribution: Anaconda's default channels ask companies for a licence.
ARG CONDA_IMAGE=condaforge/miniforge3:25.11.0-0
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9

FROM ${CONDA_IMAGE} AS conda
FROM ${UV_IMAGE} AS uv

# Empty. `--build-context isaac=PATH` puts a local checkout in its place, and the network is not asked.
FROM scratch AS isaac

FROM ${BUILD_IMAGE} AS build
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
# Branch n1.5-release. A branch or a tag does as well.
ARG ISAAC_REF=4af2b622892f7dcb5aae5a3fb70bcb02dc217b96
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
RUN --mount=type=cache,target=/root/.cache/conda,sharing=locked \
    --mount=type=bind,from=conda,source=/opt/conda,target=/opt/conda,rw \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then \
        export SSL_CERT_FILE=/run/secrets/ca REQUESTS_CA_BUNDLE=/run/secrets/ca CONDA_SSL_VERIFY=/run/secrets/ca; \
    fi; \
    export CONDA_PKGS_DIRS=/root/.cache/conda; \
    /opt/conda/bin/conda create --yes --quiet --prefix /opt/isaac "python=${PYTHON_VERSION}" pip
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    /opt/isaac/bin/python -m pip install --upgrade setuptools wheel; \
    /opt/isaac/bin/python -m pip install --editable ".[base]"

# Looks for a wheel of its own release first, and compiles for up to hours where there is none. Empty: left out, and
# upstream's model can't be imported.
ARG FLASH_ATTN=flash-attn==2.7.1.post4
ARG MAX_JOBS=4
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca; fi; \
    if [ -n "${FLASH_ATTN}" ]; then \
        /opt/isaac/bin/python -m pip install packaging ninja psutil; \
        /opt/isaac/bin/python -m pip install --no-build-isolation "${FLASH_ATTN}"; \
    fi

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

FROM ${RUNTIME_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# What upstream's packages load (torchcodec: ffmpeg; OpenCV: libGL and GLib), then what `trainer` needs.
ARG ENGINE_PACKAGES="ffmpeg libgl1 libglib2.0-0"
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git git-lfs tini ${ENGINE_PACKAGES} \
    && rm -rf /var/lib/apt/lists/*
# Volumes mounted here take over the owner.
RUN useradd --uid 1000 --create-home pippa \
    && install -d -o pippa -g pippa /var/lib/pippa /var/lib/pippa/cache /var/lib/pippa/runs
COPY --from=pippa /opt/python /opt/python
COPY --from=engine /opt/isaac-gr00t /opt/isaac-gr00t
COPY --from=engine /opt/isaac /opt/isaac
COPY --from=pippa /opt/pippa /opt/pippa

ARG PIPPA_SOURCE=""
ARG PIPPA_GIT_SHA=""
ARG ISAAC_REPOSITORY=https://github.com/NVIDIA/Isaac-GR00T.git
ARG ISAAC_REF=4af2b622892f7dcb5aae5a3fb70bcb02dc217b96
# The engine's licence and pippa's; each package they install declares its own.
LABEL org.opencontainers.image.title="pippa trainer, engine isaac-conda" \
      org.opencontainers.image.source="${PIPPA_SOURCE}" \
      org.opencontainers.image.revision="${PIPPA_GIT_SHA}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      pippa.isaac.repository="${ISAAC_REPOSITORY}" \
      pippa.isaac.ref="${ISAAC_REF}"
# Upstream calls torchrun by name; /opt/pippa comes first, so that `python` and `trainer` are ours.
ENV PATH=/opt/pippa/bin:/opt/isaac/bin:$PATH \
    PIPPA_ENGINE=isaac-conda \
    PIPPA_FINETUNE_COMMAND="/opt/isaac/bin/python /opt/isaac-gr00t/scripts/gr00t_finetune.py" \
    PIPPA_EVALUATE_COMMAND="/opt/pippa/bin/python -m trainer.evaluation.upstream /opt/isaac/bin/python /opt/isaac-gr00t/scripts/eval_policy.py" \
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
