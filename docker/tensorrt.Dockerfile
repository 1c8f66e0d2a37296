# The image of a TensorRT target: base with TensorRT, packages, device code, model; layers that change least come first.
# The build runs no programs of the image, so it works on another platform and without a GPU. BASE needs
# Python 3 and TensorRT with its Python bindings. The engine is built when the image is first started.
ARG BASE
FROM ${BASE}
COPY packages /
COPY device /
# An engine is built once and kept in this volume with its proof; a named volume outlives the container.
COPY --chown=10001:10001 cache/var/cache /var/cache/
VOLUME /var/cache/edge-deploy
ENV PYTHONPATH=/opt/edge-deploy/device:/opt/edge-deploy/packages \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    ENGINE_CACHE=/var/cache/edge-deploy \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PORT=8000
USER 10001:10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
# Building takes minutes, up to an hour on a small module; until then the container is alive but not ready.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60m --retries=3 \
    CMD ["python3", "-m", "targets.device", "healthcheck"]
ENTRYPOINT ["python3", "-m", "targets.device"]
CMD ["serve"]
COPY model /
