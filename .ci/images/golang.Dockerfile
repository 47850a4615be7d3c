# Stands in for the official Go image: this machine's Go on Debian.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE}
COPY . /usr/local/go
ENV GOPATH=/go \
    GOTOOLCHAIN=local \
    PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
