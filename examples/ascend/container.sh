#!/bin/bash
# Run a command in the image `qvl` with all NPUs of this machine: examples/ascend/container.sh qvl doctor
#
# A container sees only the devices that it is started with: each davinciN, and the three managers. With Ascend Docker
# Runtime, `-e ASCEND_VISIBLE_DEVICES=0-7` takes the place of devices and mounts. Not run on NPUs by anybody here.
set -euo pipefail

devices=()
for node in /dev/davinci[0-9]* /dev/davinci_manager /dev/devmm_svm /dev/hisi_hdc; do
    if [ -e "$node" ]; then
        devices+=("--device=$node")
    else
        echo "no $node on this machine" >&2
    fi
done

# npu-smi and what it reads, as far as this machine has it: a mount of a path that is not there would make a folder.
mounts=()
for path in /usr/local/Ascend/driver /usr/local/dcmi /usr/local/bin/npu-smi /usr/local/sbin/npu-smi /etc/ascend_install.info; do
    if [ -e "$path" ]; then
        mounts+=("-v" "$path:$path:ro")
    fi
done

# A job script has no terminal.
terminal=()
if [ -t 0 ]; then
    terminal=(-it)
fi

# --shm-size is for the data workers, --network host for HCCL between machines.
exec docker run --rm "${terminal[@]}" --network host --shm-size "${SHM_SIZE:-16g}" --ulimit nofile=65535 \
    "${devices[@]}" "${mounts[@]}" \
    -v "$PWD":/mnt/project -w /mnt/project \
    "${IMAGE:-qvl}" "$@"
