# docker build -f docker/cpu.Dockerfile -t mmdet_r2 .
# docker run --rm -v "$PWD:/work" mmdet_r2 predict photo.jpg MODEL --out-dir pictures
FROM python:3.11-slim
COPY . /src
# libGL and GLib are OpenCV's
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir /src \
    && rm -r /src \
    && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["mmdet-r2"]
