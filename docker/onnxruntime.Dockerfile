# The image of an ONNX Runtime target: base, dependencies, device code, model; layers that change least come first.
# Built without network from a complete context; BASE needs only Python 3 with venv.
# Each of the three COPY steps includes its parent folders, so that layers contain no build time.
ARG BASE
FROM ${BASE} AS dependencies
LABEL dev.edge-deploy.stage="dependencies"
COPY install.py surplus.txt /install/
COPY wheels /install/wheels
RUN ["python3", "/install/install.py", "/opt/edge-deploy", "/layer"]

FROM ${BASE}
COPY --from=dependencies /layer /
COPY device /
# OpenBLAS is not used; one thread keeps it from reserving memory for every core.
# ONNX Runtime sends telemetry by default.
ENV PYTHONPATH=/opt/edge-deploy/device \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PORT=8000
USER 10001:10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/edge-deploy/bin/python", "-m", "targets.device", "healthcheck"]
ENTRYPOINT ["/opt/edge-deploy/bin/python", "-m", "targets.device"]
CMD ["serve"]
COPY model /
