# NumPy and PyTorch for processors, below 2 GB. Other extras: --build-arg EXTRAS=torch,tensorflow,pictures
#   docker build -t mnist .
#   docker run --rm -it -v "$PWD/results:/work/results" mnist compare
FROM python:3.12-slim AS build
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
ARG EXTRAS=torch,pictures
# The builds without CUDA take a tenth of the space of those that pip finds by itself.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN case ",$EXTRAS," in *,torch,*) \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision ;; esac
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)${EXTRAS:+[$EXTRAS]}" && rm -r /wheels
RUN useradd --uid 1000 mnist && mkdir -p /work/results && chown -R mnist /work
# Caches are in /tmp, so that a read-only root file system does: --read-only --tmpfs /tmp
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER mnist
WORKDIR /work
ENTRYPOINT ["mnist"]
CMD ["--help"]
