# gigabag for NVIDIA GPUs and the CPU; smaller, for the CPU alone, with --build-arg TORCH_INDEX. docs/containers.md says how.
# OpenSlide, libvips and CUDA come as wheels with setup.cfg's dependencies: nothing is installed with apt.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
# Where PyTorch's wheels come from, if not from pip's usual index: the address that pytorch.org gives for the CPU or a CUDA
ARG TORCH_INDEX=
# Extras of setup.cfg, such as dask or tensorboard, with a comma between them
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# PyTorch first: its gigabytes stay in the builder's cache when nothing but gigabag changes.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.4" "torchvision>=0.19"
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
