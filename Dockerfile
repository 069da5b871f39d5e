# gigabag for the CPU (the default), or for NVIDIA GPUs with --build-arg DEVICE=cuda. docs/containers.md says how to use it.
# OpenSlide, libvips and CUDA come as wheels with setup.cfg's dependencies: nothing is installed with apt.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG DEVICE=cpu
# Where PyTorch comes from, if not from where DEVICE says: that of another CUDA, such as https://download.pytorch.org/whl/cu126
ARG TORCH_INDEX=
# Extras of setup.cfg, such as dask or tensorboard, with a comma between them
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# PyTorch first: its gigabytes stay in the builder's cache when nothing but gigabag changes.
RUN set -eu; \
    case "$DEVICE" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index= ;; \
        *) echo "DEVICE is cpu or cuda, not '$DEVICE'" >&2; exit 1 ;; \
    esac; \
    index="${TORCH_INDEX:-$index}"; \
    pip install ${index:+--index-url "$index"} "torch>=2.4" "torchvision>=0.19"
WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE train.py infer.py ./
COPY configs configs
COPY tiling tiling
COPY mil mil
# hadolint ignore=DL3013  # it is this folder that is installed
RUN pip install ".${EXTRAS:+[$EXTRAS]}"

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/venv /opt/venv
WORKDIR /gigabag
COPY LICENSE train.py infer.py ./
COPY configs configs
# HOME is a place that any --user can write to; weights from timm's hub go there too, unless HF_HOME says otherwise.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp MPLBACKEND=agg PYTHONUNBUFFERED=1
USER 1000:1000
CMD ["python", "-m", "tiling", "--help"]
