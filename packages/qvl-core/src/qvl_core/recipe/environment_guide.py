"""When to set each variable of [env], for docs/environment.md; meaning, range and default are in the schema."""

from __future__ import annotations

WHEN = {
    "ASCEND_RT_VISIBLE_DEVICES": "Some devices are ill or taken by others. As many as launch.devices_per_node.",
    "ASCEND_SLOG_PRINT_TO_STDOUT": "1 while looking for the cause of a CANN error: it then stands in the rank's log.",
    "ASCEND_GLOBAL_LOG_LEVEL": "1 or 2 for a CANN support case, never for a long run: logs of gigabytes, slower steps.",
    "ASCEND_PROCESS_LOG_PATH": "The home folder is small, shared or read-only.",
    "ACLNN_CACHE_LIMIT": "100000 for images of many sizes: each size makes operators of its own.",
    "HCCL_CONNECT_TIMEOUT": "1200 where weights load from shared storage, machines start minutes apart; 7200 for 72B.",
    "HCCL_EXEC_TIMEOUT": "Only where a step may truly take longer than 30 minutes: a hang is found this late.",
    "HCCL_BUFFSIZE": "Smaller when memory is short by a few hundred MB; larger for large messages.",
    "HCCL_DETERMINISTIC": "Two runs have to be equal to the bit.",
    "HCCL_IF_BASE_PORT": "Two runs share a machine, or the log says EJ0003: another range for each.",
    "HCCL_HOST_SOCKET_PORT_RANGE": "Several processes share an NPU, or a firewall allows certain ports only.",
    "HCCL_NPU_SOCKET_PORT_RANGE": "Several processes share an NPU.",
    "HCCL_SOCKET_IFNAME": "Several machines: the interface that reaches the others.",
    "HCCL_IF_IP": "The interface has several addresses.",
    "HCCL_SOCKET_FAMILY": "The machines reach each other over IPv6 only.",
    "HCCL_WHITELIST_DISABLE": "0 where policy asks for a list of peers.",
    "HCCL_WHITELIST_FILE": "With HCCL_WHITELIST_DISABLE = 0.",
    "HCCL_RDMA_TIMEOUT": "The administrator of the network asks for it.",
    "HCCL_OP_RETRY_ENABLE": "A3 with an unsteady network between machines.",
    "HCCL_OP_RETRY_PARAMS": "With HCCL_OP_RETRY_ENABLE.",
    "HCCL_DFS_CONFIG": "Hardly ever; leave the heartbeat on.",
    "MS_DEV_LAUNCH_BLOCKING": "1 to find the operator that fails: the Python stack then stands at it. Slow.",
    "MS_DEV_HOST_BLOCKING_RUN": "1 to find a failing operator at less cost; on CPU qvl sets it.",
    "MS_ALLOC_CONF": "Memory is fragmented: enable_vmm:True.",
    "MS_DEV_RUNTIME_CONF": "Support asks for it.",
    "MS_NODE_TIMEOUT": "About 900 on hundreds of devices or loaded machines.",
    "MS_TOPO_TIMEOUT": "Machines start more than 10 minutes apart.",
    "MS_RECEIVE_MSG_TIMEOUT": "The scheduler's machine is heavily loaded.",
    "MS_RETRY_INTERVAL_LOWER": "1 on a development machine: starts some seconds faster.",
    "MS_RETRY_INTERVAL_UPPER": "1 on a development machine: starts some seconds faster.",
    "MS_DISABLE_HEARTBEAT": "Under a debugger that stops a worker for minutes.",
    "GLOG_v": "1 for a MindSpore support case; 3 to hear errors only.",
    "OMP_NUM_THREADS": "Several processes share the cores of a machine: cores divided by processes.",
    "TOKENIZERS_PARALLELISM": "Never by hand: qvl sets false where data workers run.",
}

# What the reference stack's scripts set and MindSpore does not read: meaning for the PyTorch adapter.
MEANING_FOR_TORCH = {
    "ASCEND_LAUNCH_BLOCKING": "operators one at a time; 0 or 1",
    "COMBINED_ENABLE": "merges operators that are not contiguous",
    "CPU_AFFINITY_CONF": "binds threads to cores; qvl starts msrun with --bind_core",
    "CUDA_DEVICE_MAX_CONNECTIONS": "satisfies a check of Megatron",
    "NPU_ASD_ENABLE": "looks for silent data errors",
    "PYTORCH_NPU_ALLOC_CONF": "memory pool",
    "TASK_QUEUE_ENABLE": "queue of operators",
}
