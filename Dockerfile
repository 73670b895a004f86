FROM python:3.12-slim AS build
# A mirror of the package index; and one more index: with that of torch's CPU builds, where there is no GPU, the image
# is several times smaller. What is set here stays in this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# This image has no C compiler. For the build alone, pip fetches one from the package index.
COPY . /source
# torch's tests and its headers for C++ are a fifth of its CPU build.
RUN python -m venv --without-pip /opt/denoise \
    && pip --python /opt/denoise/bin/python install --no-cache-dir "/source[cluster,microscopy,raw,science]" \
    && cd /opt/denoise/lib/python3*/site-packages/torch && rm -rf test include

FROM python:3.12-slim
COPY --from=build /opt/denoise /opt/denoise
# Numbers that stay the same, for the owner of folders that are mounted. A new volume takes the owner of its folder here.
RUN pip uninstall --yes --root-user-action=ignore pip \
    && groupadd --gid 10001 denoise \
    && useradd --uid 10001 --gid denoise --no-create-home denoise \
    && install --directory --owner denoise --group denoise --mode 700 /keys /spool /weights
ENV PATH=/opt/denoise/bin:$PATH DENOISE_SPOOL=/spool
VOLUME /spool
USER 10001:10001
EXPOSE 8000
# By no proxy, as urlopen would where one is set.
HEALTHCHECK --interval=10s --timeout=5s --start-period=1m CMD ["python", "-c", "\
from http.client import HTTPConnection;\
asked = HTTPConnection('127.0.0.1', 8000, timeout=4);\
asked.request('GET', '/health/live');\
exit(asked.getresponse().status != 200)"]
CMD ["denoise", "serve", "--host", "0.0.0.0"]
