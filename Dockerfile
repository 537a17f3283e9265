# The image of every role.
#
# From source, with the dependencies in layers of their own, which a change of our code leaves alone:
#   docker build -t chancery:local .
# From a program that is built already, for which the last stages are not needed (`chancery cluster up` does the same):
#   tar -c Dockerfile -C target/release chancery | docker build --target binary -t chancery:local -
#
# A program of the second way must be built for a glibc no newer than that of RUNTIME_IMAGE.

ARG RUNTIME_IMAGE=debian:bookworm-slim
ARG RUST_IMAGE=rust:1.95-slim-bookworm

FROM ${RUNTIME_IMAGE} AS runtime
# Mail servers are checked by public authorities; the servers of the cluster by its own.
RUN [ -e /etc/ssl/certs/ca-certificates.crt ] \
 || { apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; }
# Volumes that are mounted here for the first time belong to the user of `init`, which hands them on.
RUN for folder in /run/chancery /volumes/nats-1 /volumes/nats-2 /volumes/nats-3 /volumes/mail; do \
      mkdir -p "$folder" && chown 10000:10000 "$folder" && chmod 0755 "$folder" || exit 1; \
    done
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["/usr/local/bin/chancery"]
CMD ["--help"]

FROM runtime AS binary
COPY --chown=0:0 chancery /usr/local/bin/chancery

FROM ${RUST_IMAGE} AS chef
# For the C parts of dependencies (aws-lc, mimalloc).
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
RUN cargo install --locked --version 0.1.78 cargo-chef
WORKDIR /src

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
ARG PROFILE=release
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --locked --profile "$PROFILE" --package chancery --bin chancery --recipe-path recipe.json
COPY . .
RUN cargo build --locked --profile "$PROFILE" --package chancery --bin chancery \
 && cp "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")/chancery" /chancery

FROM runtime
COPY --from=build --chown=0:0 /chancery /usr/local/bin/chancery
