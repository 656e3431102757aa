# Detectron2's main at a pinned commit and this project, for NVIDIA GPUs (driver 580 or newer).
#
#   docker build --tag detco .
#   docker run --rm --gpus all --shm-size 16g --volume /data:/data --volume "$PWD/runs:/runs" detco \
#     transfer coco-retinanet-12k --weights /runs/backbone.safetensors --out /runs --num-gpus 8
#
# --shm-size: loading processes hand their batches over in shared memory. Docker gives 64 MB of it, and a run then ends
# with "Bus error" or "unable to open shared memory object".

# "devel" has nvcc. Its CUDA must be the one PyTorch was built with: PyPI's PyTorch 2.14 is built with CUDA 13.0.
FROM nvidia/cuda:13.0.3-devel-ubuntu24.04

# git: pip takes Detectron2 from its repository; records name this project's commit.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu does not let pip write into its own Python.
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1

# Detectron2's setup imports torch, so torch comes first and the build is not isolated from it.
RUN pip install torch==2.14.1 torchvision==0.29.1 'setuptools>=77,<81' wheel ninja

# No GPU is visible while an image is built: say that CUDA is wanted, and for which GPUs. Fewer of them build faster:
# --build-arg TORCH_CUDA_ARCH_LIST=9.0 (7.5 T4, 8.0 A100, 8.6 RTX 30, 8.9 L40S and RTX 40, 9.0 H100, 10.0 B200, 12.0 RTX 50).
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
ARG DETECTRON2_COMMIT=02b5c4e295e990042a714712c21dc79b731e8833
RUN FORCE_CUDA=1 pip install --no-build-isolation \
        "git+https://github.com/facebookresearch/detectron2@${DETECTRON2_COMMIT}"

# Last, so that an edit of the code builds nothing above again. Editable: the code stays beside its .git.
COPY . /opt/detco
RUN pip install --editable '/opt/detco[cityscapes]'

WORKDIR /runs
ENTRYPOINT ["detco"]
