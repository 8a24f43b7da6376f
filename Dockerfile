# syntax=docker/dockerfile:1
# One image for all commands: `serve` (the default), `scheduler`, `export`, `import`, `config`. It has
# `ojsctl`, too, for `kubectl exec`.
# All packages are pinned with hashes in requirements/ (`make lock`) and installed from wheels, so no
# stage needs a compiler. tests/containers builds and runs it without Docker.

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/ requirements/
# A layer without our code, so that it stays cached. `--python` installs from outside, so the image
# has no pip.
RUN python -m venv --without-pip /opt/ojs \
    && python -m pip --python /opt/ojs/bin/python install --no-compile \
        --require-hashes --only-binary=:all: --requirement requirements/runtime.lock
RUN python -m venv /opt/build \
    && /opt/build/bin/python -m pip install \
        --require-hashes --only-binary=:all: --requirement requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY ojs_cluster/ ojs_cluster/
COPY scheduler/ scheduler/
COPY clients/python/ clients/python/
# Compiled now and not checked at run time, because the file system is read-only then.
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheels \
        . ./clients/python \
    && python -m pip --python /opt/ojs/bin/python install --no-compile \
        --no-deps --no-index --find-links /opt/wheels ojs-cluster ojs-client \
    && /opt/ojs/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/ojs/lib

# Built with --enable-optimizations and --with-lto. Another base may need a fifth more processor time
# (docs/adr/034); the start log shows the build.
FROM python:3.13-slim-trixie
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ojs-cluster" \
      org.opencontainers.image.description="An OpenJobSpec job server over Redis or Valkey Cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/ojs /opt/ojs
ENV PATH=/opt/ojs/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Numeric, so that Kubernetes can verify that it is not root. It owns no files.
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
# Checks that the process answers. It does not call Redis and does not verify the certificate. It is for
# `serve`: switch it off for other commands, and if the API requires client certificates.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; e = os.environ.get; tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); tls.check_hostname = False; tls.verify_mode = ssl.CERT_NONE; r.urlopen(('https' if e('OJS_TLS_CERT') else 'http') + '://127.0.0.1:' + (e('OJS_PORT') or '8080') + '/live', timeout=2, context=tls)"]
ENTRYPOINT ["ojs-cluster"]
CMD ["serve"]
