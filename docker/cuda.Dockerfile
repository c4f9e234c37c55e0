# docker build -f docker/cuda.Dockerfile -t mmdet_r2:cuda .
# docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" mmdet_r2:cuda train CONFIG
# Operators are torchvision's; nothing is compiled.
FROM python:3.11-slim
COPY . /src
# libGL and GLib are OpenCV's
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir torch torchvision \
    && pip install --no-cache-dir /src \
    && rm -r /src \
    && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["mmdet-r2"]
