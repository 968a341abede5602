# syntax=docker/dockerfile:1
# SuperExec with its ServerApps, and the operator's commands: no CUDA, no Ray. The SuperLink is Flower's own image as it is.
#   docker build -f deploy/docker/server.Dockerfile -t hypergpu-server:0.1.0 .
# torch comes from PyTorch's own index of CPU builds. Not tried: no image was built where this was written.
# Flower's bare tags are Alpine, for which PyTorch has no wheels.
FROM flwr/superexec:1.41.0-py3.12-ubuntu24.04

USER 0
WORKDIR /opt/hypergpu
# What changes seldom comes first: torch, the other dependencies, then our own code, a megabyte that is copied alone.
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch torchvision
COPY pyproject.toml README.md LICENSE deploy/docker/requirements.py ./
RUN python requirements.py pyproject.toml > requirements.txt \
 && python -m pip install --no-cache-dir -c constraints.txt -r requirements.txt \
 && mkdir -p /var/lib/hypergpu \
 && chown 49999:49999 /var/lib/hypergpu
COPY hypergpu_fl hypergpu_fl
COPY strategies strategies
COPY deploy deploy
# Editable: the sources stay here, and `hypergpu run` submits them.
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
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# Flower's SuperExec answers there if it is started with `--health-server-address 127.0.0.1:8081`, as all our forms do.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import grpc, sys; from grpc_health.v1 import health_pb2 as p, health_pb2_grpc as g; asked = g.HealthStub(grpc.insecure_channel('127.0.0.1:8081')).Check(p.HealthCheckRequest(), timeout=5); sys.exit(asked.status != p.HealthCheckResponse.SERVING)"]
ENTRYPOINT ["hypergpu"]
CMD ["--help"]
