FROM python:3.12-slim AS build
# Where there is no GPU, a package index with torch's CPU builds, given here, makes the image several times smaller.
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN python -m venv /opt/denoise && /opt/denoise/bin/pip install --no-cache-dir /source

FROM python:3.12-slim
COPY --from=build /opt/denoise /opt/denoise
# A new volume at /keys belongs to the user who writes and reads the keys.
RUN useradd --system denoise && install -d -o denoise /keys
ENV PATH=/opt/denoise/bin:$PATH
USER denoise
EXPOSE 8000
HEALTHCHECK --start-period=1m --timeout=5s \
    CMD ["/opt/denoise/bin/python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"]
CMD ["/opt/denoise/bin/denoise", "serve", "--host", "0.0.0.0"]
