# Serves certified predictions; no torch inside. Training is a target of its own: --target train.
#
# To pin the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# A virtual environment travels between stages whole, wherever its Python keeps packages.
RUN python3 -m venv /opt/lipcert
COPY pyproject.toml constraints.txt README.md ./
COPY lipmodel lipmodel
COPY service service
COPY lipcert lipcert
RUN /opt/lipcert/bin/pip install --constraint constraints.txt '.[serve,report,otel,postgres,stores]'

FROM build AS build-train
# On a machine without a GPU, a CPU build of torch is far smaller: give its index by
# --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL
RUN /opt/lipcert/bin/pip install --constraint constraints.txt '.[train]'

FROM ${PYTHON_IMAGE} AS base
# A new volume takes the owner of the folder it is mounted on: training must be able to write there.
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
# Jobs and their results, and what is sent for them while it arrives (/tmp may be memory): writable on a
# read-only root, too.
ENV LIPSERVE_STATE=/state TMPDIR=/state
VOLUME /state
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["sh", "/usr/local/bin/serve"]
