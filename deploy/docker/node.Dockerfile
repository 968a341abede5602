# syntax=docker/dockerfile:1
# A SuperNode. PyPI's torch brings CUDA along:
#   docker build -f deploy/docker/node.Dockerfile -t hypergpu-node:0.1.0 .
# Without a GPU, a tenth of the size, from PyTorch's own index:
#   docker build -f deploy/docker/node.Dockerfile --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu \
#     -t hypergpu-node:0.1.0-cpu .
# Neither was tried: no image was built where this was written.
FROM flwr/supernode:1.41.0-py3.12-ubuntu24.04

USER 0
WORKDIR /opt/hypergpu
# What changes seldom comes first: torch, the other dependencies, then our own code, a megabyte that is copied alone.
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir -c constraints.txt --index-url "${TORCH_INDEX}" torch torchvision
COPY pyproject.toml README.md LICENSE deploy/docker/requirements.py ./
RUN python requirements.py pyproject.toml > requirements.txt \
 && python -m pip install --no-cache-dir -c constraints.txt -r requirements.txt \
 && mkdir -p /var/lib/hypergpu \
 && chown 49999:49999 /var/lib/hypergpu
COPY hypergpu_fl hypergpu_fl
COPY strategies strategies
RUN python -m pip install --no-cache-dir --no-deps -e . \
 && python -m compileall -q hypergpu_fl strategies

# Flower's images run as this user; volumes must belong to it.
USER 49999:49999
WORKDIR /app
ENV HOME=/var/lib/hypergpu \
    HYPERGPU_RUNS=/var/lib/hypergpu/runs \
    FLWR_HOME=/var/lib/hypergpu/flwr \
    XDG_CACHE_HOME=/var/lib/hypergpu/cache \
    NUMBA_CACHE_DIR=/var/lib/hypergpu/cache/numba \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/hypergpu/cache/inductor \
    TRITON_CACHE_DIR=/var/lib/hypergpu/cache/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9094/health', timeout=5)"]
ENTRYPOINT ["hypergpu", "node", "start"]
CMD ["--help"]
