# The worker's image. LOCK=cpu (default) or gpu: which ONNX Runtime it carries.
FROM python:3.11-slim-bookworm AS build
ARG LOCK=cpu
WORKDIR /src
COPY requirements/build.txt requirements/worker-${LOCK}.txt requirements/
RUN python -m venv /opt/riskwire \
 && /opt/riskwire/bin/pip install --no-cache-dir --require-hashes -r requirements/worker-${LOCK}.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY features features
COPY models models
COPY schemas schemas
COPY verify verify
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/wheel \
 && /opt/riskwire/bin/pip install --no-cache-dir --no-deps /tmp/wheel/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home riskwire && mkdir /var/cache/riskwire && chown riskwire /var/cache/riskwire
COPY --from=build /opt/riskwire /opt/riskwire
ENV PATH=/opt/riskwire/bin:$PATH NUMBA_CACHE_DIR=/var/cache/riskwire PYTHONUNBUFFERED=1
USER riskwire
WORKDIR /home/riskwire
# Compiled loops are kept for the processor that builds; on another one the first start compiles them again.
RUN riskwire warm-up
EXPOSE 8080
ENTRYPOINT ["riskwire"]
CMD ["worker"]
