# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target cpu -t anomalyd:cpu .      (about 2 GB, most of it torch)
#   docker build --target gpu -t anomalyd:gpu .      (about 8 GB, torch with CUDA)
# TORCH_INDEX: address of a pip index with CPU builds of torch; without it the CPU image gets pip's default build, which
# carries CUDA and is as large as the GPU image (docs/operations.md).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE config.yaml ./
COPY requirements requirements
COPY src src
COPY daemon daemon
COPY pipeline pipeline
COPY storage storage
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS venv
COPY requirements/run.lock requirements/torch-cpu.txt /requirements/
RUN python -m venv /opt/anomalyd

FROM venv AS venv-cpu
ARG TORCH_INDEX=
RUN /opt/anomalyd/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r /requirements/torch-cpu.txt \
 && /opt/anomalyd/bin/pip install --no-cache-dir --no-deps --require-hashes -r /requirements/run.lock
COPY --from=wheel /wheels /wheels
RUN /opt/anomalyd/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM venv AS venv-gpu
RUN /opt/anomalyd/bin/pip install --no-cache-dir -r /requirements/torch-cpu.txt \
 && /opt/anomalyd/bin/pip install --no-cache-dir --no-deps --require-hashes -r /requirements/run.lock
COPY --from=wheel /wheels /wheels
RUN /opt/anomalyd/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM ${PYTHON_IMAGE} AS base
RUN useradd --system --uid 10001 --home-dir /var/lib/anomalyd --shell /usr/sbin/nologin anomalyd \
 && install -d -m 0700 -o anomalyd -g anomalyd /var/lib/anomalyd
# Paths that differ from the packaged configuration. The network is opened by ANOMALYD_DAEMON__HOST together with
# ANOMALYD_DAEMON__ACCEPT_FROM (compose.yaml), never by default.
ENV PATH=/opt/anomalyd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp \
    ANOMALYD_STORAGE__ROOT=/var/lib/anomalyd
USER 10001
WORKDIR /var/lib/anomalyd
VOLUME /var/lib/anomalyd
EXPOSE 11112 2762
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["anomalyd", "status", "--health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["anomalyd"]
CMD ["serve"]

FROM base AS gpu
COPY --from=venv-gpu /opt/anomalyd /opt/anomalyd

FROM base AS cpu
COPY --from=venv-cpu /opt/anomalyd /opt/anomalyd
