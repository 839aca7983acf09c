# Serves certified predictions, without torch. For training: --target train.
#
# To pin the base image by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# A virtual environment is copied between stages as one folder.
RUN python3 -m venv /opt/lipcert
COPY pyproject.toml constraints.txt README.md ./
COPY lipmodel lipmodel
COPY service service
COPY lipcert lipcert
RUN /opt/lipcert/bin/pip install --constraint constraints.txt '.[serve,report,otel,postgres,stores]'

FROM build AS build-train
# CPU builds of torch are far smaller: set their index with --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL
RUN /opt/lipcert/bin/pip install --constraint constraints.txt '.[train]'

FROM ${PYTHON_IMAGE} AS base
# A new volume inherits the owner of its mount point: training must be able to write there.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin lipcert \
    && install -d -o lipcert -g lipcert /models \
    && install -d -o lipcert -g lipcert -m 700 /state
ENV PATH=/opt/lipcert/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001

FROM base AS train
COPY --from=build-train /opt/lipcert /opt/lipcert
ENTRYPOINT ["lipmodel"]
CMD ["--help"]

FROM base AS serve
COPY --from=build /opt/lipcert /opt/lipcert
COPY examples/models /opt/models
COPY deploy/serve.sh /usr/local/bin/serve
# Jobs, their results and incoming uploads (/tmp may be in memory): writable also with a read-only root file system.
ENV LIPSERVE_STATE=/state TMPDIR=/state
VOLUME /state
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["sh", "/usr/local/bin/serve"]
