FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/batchmill
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY openrouter openrouter
COPY routing routing
COPY spend spend
COPY store store
COPY archive archive
COPY storage storage
COPY webhooks webhooks
COPY producer producer
COPY service service
COPY workers workers
COPY cli cli
RUN /opt/batchmill/bin/pip install --no-cache-dir .

FROM python:3.13-slim
# 1000 is the first user of most Linux machines: files that are mounted from there can be read and written
RUN useradd --uid 1000 --create-home batchmill
RUN install -d -o batchmill /data
COPY --from=build /opt/batchmill /opt/batchmill
ENV PATH=/opt/batchmill/bin:$PATH PYTHONUNBUFFERED=1
USER batchmill
WORKDIR /home/batchmill
CMD ["batchmill", "--help"]
