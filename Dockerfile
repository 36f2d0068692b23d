# The image holds one static binary, the roots of public certificate
# authorities, and an empty data directory. It needs neither a shell nor /tmp,
# and runs with a read-only root file system.
#
#   docker build -t latchkey .
#   docker run -v latchkey:/data -p 127.0.0.1:5539:5539 latchkey
#
# The first start makes the root key: shown once with `docker run -t`, else kept
# in /data/root.key. Or bring one along in LATCHKEY_ROOT_KEY.

FROM golang:1.26.8 AS build
ENV CGO_ENABLED=0 GOTOOLCHAIN=local
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN mkdir -p /out/data && \
    go build -trimpath -ldflags "-s -w -X main.released=${VERSION}" -o /out/latchkey ./cmd/latchkey

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/latchkey /latchkey
# A volume that is mounted for the first time takes its owner from here.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
WORKDIR /data
VOLUME /data

# The API listens on all addresses of the container, which has a network of its
# own: nothing reaches it that the operator has not published or joined to that
# network. It speaks plain HTTP there, so whoever publishes it beyond the machine
# puts a proxy that speaks TLS in front, or mounts a certificate and sets
# LATCHKEY_TLS_CERT and LATCHKEY_TLS_KEY; then plain HTTP is off. Links that
# latchkey tells of itself need LATCHKEY_PUBLIC_URL. Metrics stay inside, beside
# the health check, until LATCHKEY_PRIVATE_LISTEN is set to 0.0.0.0:5540.
ENV LATCHKEY_DATA=/data \
    LATCHKEY_LISTEN=0.0.0.0:5539 \
    LATCHKEY_INSECURE_LISTEN=true \
    LATCHKEY_PRIVATE_LISTEN=127.0.0.1:5540
EXPOSE 5539

# A million keys take seconds to load: failures of the first 30 s do not count.
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 CMD ["/latchkey", "healthcheck"]

# SIGTERM, which stopping a container sends, lets running requests finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/latchkey"]
CMD ["serve"]
