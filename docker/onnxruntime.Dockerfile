# The image of an ONNX Runtime target: base, dependencies, device code, model, in order of how rarely they change.
# Built without network from a context that holds everything; needs Python 3 with venv in BASE, nothing else.
# Each of the three copies brings its folders along, so that no time of the build enters a layer.
ARG BASE
FROM ${BASE} AS dependencies
LABEL dev.edge-deploy.stage="dependencies"
COPY install.py surplus.txt /install/
COPY wheels /install/wheels
RUN ["python3", "/install/install.py", "/opt/edge-deploy", "/layer"]

FROM ${BASE}
COPY --from=dependencies /layer /
COPY device /
# OpenBLAS computes nothing here; one thread keeps it from reserving memory for every core.
# ONNX Runtime reports its use to its makers unless it is told not to.
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
