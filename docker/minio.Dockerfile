# MinIO's server, built from source. Its makers withdrew the official images in 2026 and archived the repository: this is
# its last commit (2026-02-12, with the fix of CVE-2025-62506), named by the module version Go gives it, since the
# release tags are not served as modules. A current Go is used, so that the standard library in it is patched.
# Maintained continuation with the same settings and files: pgsty/silo; set PIPPA_MINIO_IMAGE to use it.
ARG GO_IMAGE=golang:1.26-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

# Compiled by a Go of the machine that builds, for whichever processor the image is. A third less computing: what the
# linker would leave out is not made, and the compiler looks for garbage less often.
FROM --platform=${BUILDPLATFORM} ${GO_IMAGE} AS build
ARG TARGETARCH
ARG MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
SHELL ["/bin/sh", "-eu", "-c"]
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    CGO_ENABLED=0 GOARCH="${TARGETARCH:-}" GOGC=400 \
        go install -trimpath -gcflags=all=-dwarf=false -ldflags "-s -w" "github.com/minio/minio@${MINIO_VERSION}"; \
    mkdir /out; \
    find /go/bin -name minio -type f -exec cp {} /out/ ';'; \
    cp "/go/pkg/mod/github.com/minio/minio@${MINIO_VERSION}/LICENSE" /out/

FROM ${DEBIAN_IMAGE}
ARG MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
SHELL ["/bin/sh", "-eu", "-c"]
# curl asks whether it is well.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/*
# A volume mounted at /data takes over the owner.
RUN useradd --uid 1000 --create-home pippa && install -d -o pippa -g pippa /data
COPY --from=build /out/minio /usr/local/bin/minio
COPY --from=build /out/LICENSE /usr/share/doc/minio/LICENSE

LABEL org.opencontainers.image.title="MinIO server, built from source" \
      org.opencontainers.image.source="https://github.com/minio/minio" \
      org.opencontainers.image.revision="${MINIO_VERSION}" \
      org.opencontainers.image.licenses="AGPL-3.0-only"
# The console would be a second way in.
ENV MINIO_BROWSER=off \
    MINIO_UPDATE=off
USER 1000
EXPOSE 9000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["curl", "--fail", "--silent", "http://127.0.0.1:9000/minio/health/live"]
ENTRYPOINT ["minio"]
CMD ["server", "/data", "--address", ":9000"]
