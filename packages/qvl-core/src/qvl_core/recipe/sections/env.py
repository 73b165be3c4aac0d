"""[env]: environment variables of the workers. What is not listed here is not passed on.

Ranges and defaults are those of the CANN and MindSpore documentation of each variable.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qvl_core.recipe.sections.section import Section

Text = Annotated[str, Field(max_length=4096)]
Switch = Literal[0, 1]


class EnvSection(Section):
    """Names are the variables' own. All are unset by default: the runtime's default then holds."""

    ASCEND_RT_VISIBLE_DEVICES: Text | None = Field(
        default=None,
        description="Devices that the workers may use, a comma list of numbers. Default: all of the machine.",
        examples=["0,1,2,3,4,5,6,7"],
    )
    ASCEND_SLOG_PRINT_TO_STDOUT: Switch | None = Field(
        default=None, description="CANN log: 1 prints instead of writing files. Runtime default 0.", examples=[0]
    )
    ASCEND_GLOBAL_LOG_LEVEL: Annotated[int, Field(ge=0, le=4)] | None = Field(
        default=None,
        description="CANN log: 0 debug, 1 info, 2 warning, 3 error, 4 none. Runtime default 3.",
        examples=[3],
    )
    ASCEND_PROCESS_LOG_PATH: Text | None = Field(
        default=None,
        description="Folder of the CANN log files. Runtime default $HOME/ascend/log.",
        examples=["logs/ascend"],
    )
    ACLNN_CACHE_LIMIT: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        description="Operators cached per thread, 1 to 10000000, about 2 KB each. Runtime default 10000; many image "
        "sizes need more.",
        examples=[100000],
    )
    HCCL_CONNECT_TIMEOUT: Annotated[int, Field(ge=120, le=7200)] | None = Field(
        default=None,
        description="Seconds that the devices wait for each other at start, 120 to 7200. Runtime default 120 "
        "(MindSpore sets 600); raise it where weights load slowly.",
        examples=[1200],
    )
    HCCL_EXEC_TIMEOUT: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None,
        description="Seconds that a collective may take, 1 to 2147483647; 0 would wait for ever and is refused. "
        "Runtime default 1836. First-generation Atlas: at most 17340, rounded down to a multiple of 68.",
        examples=[7200],
    )
    HCCL_BUFFSIZE: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Buffer of a communicator, MB, at least 1; each takes twice this. Runtime default 200.",
        examples=[200],
    )
    HCCL_DETERMINISTIC: Literal["false", "true", "strict"] | None = Field(
        default=None,
        description="Order of reductions fixed: slower, needed for bit-equal runs on NPUs. Runtime default 'false'.",
        examples=["true"],
    )
    HCCL_IF_BASE_PORT: Annotated[int, Field(ge=0, le=65520)] | None = Field(
        default=None,
        description="First of 16 ports that HCCL takes, 0 to 65520. Runtime default 60000.",
        examples=[60000],
    )
    HCCL_HOST_SOCKET_PORT_RANGE: Text | None = Field(
        default=None,
        description="Ports for HCCL: a list of ranges or 'auto'. Wins over HCCL_IF_BASE_PORT.",
        examples=["auto"],
    )
    HCCL_NPU_SOCKET_PORT_RANGE: Text | None = Field(
        default=None,
        description="Ports that HCCL opens on the NPU's own network card: a list of ranges or 'auto'. Needed where "
        "processes share an NPU.",
        examples=["auto"],
    )
    HCCL_SOCKET_IFNAME: Text | None = Field(
        default=None,
        description="Network interface for HCCL; a wrong one is the usual multi-node failure.",
        examples=["eth0"],
    )
    HCCL_IF_IP: Text | None = Field(
        default=None, description="IP address of this machine for HCCL.", examples=["10.0.0.1"]
    )
    HCCL_SOCKET_FAMILY: Literal["AF_INET", "AF_INET6"] | None = Field(
        default=None, description="Address family for HCCL. Runtime default AF_INET first.", examples=["AF_INET"]
    )
    HCCL_WHITELIST_DISABLE: Switch | None = Field(
        default=None,
        description="0 checks peers against HCCL_WHITELIST_FILE. Runtime default 1: no check.",
        examples=[1],
    )
    HCCL_WHITELIST_FILE: Text | None = Field(
        default=None,
        description="File of the peers allowed. Needed where HCCL_WHITELIST_DISABLE is 0.",
        examples=["hccl.json"],
    )
    HCCL_RDMA_TIMEOUT: Annotated[int, Field(ge=5, le=20)] | None = Field(
        default=None, description="RDMA wait, 4.096 us * 2^value, 5 to 20. Runtime default 20.", examples=[20]
    )
    HCCL_OP_RETRY_ENABLE: Text | None = Field(
        default=None,
        description="Retry of failed collectives on A3, per level. Runtime default off.",
        examples=["L1:1,L2:1"],
    )
    HCCL_OP_RETRY_PARAMS: Text | None = Field(
        default=None,
        description="Count 1-10, hold and interval 0-60000 ms of the retry.",
        examples=["MaxCnt:1,HoldTime:5000,IntervalTime:1000"],
    )
    HCCL_DFS_CONFIG: Text | None = Field(
        default=None,
        description="Failure detection; keep the heartbeat on, it names the root rank.",
        examples=["cluster_heartbeat:on"],
    )
    MS_DEV_LAUNCH_BLOCKING: Switch | None = Field(
        default=None,
        description="1: MindSpore launches one operator at a time, for debugging. Runtime default 0.",
        examples=[1],
    )
    MS_DEV_HOST_BLOCKING_RUN: Switch | None = Field(
        default=None,
        description="1: MindSpore launches from one thread. Runtime default 0; qvl sets 1 on CPU, 4 to 14 times faster "
        "there.",
        examples=[1],
    )
    MS_ALLOC_CONF: Text | None = Field(
        default=None, description="MindSpore's memory pool, as in its documentation.", examples=["enable_vmm:True"]
    )
    MS_DEV_RUNTIME_CONF: Text | None = Field(
        default=None,
        description="MindSpore's runtime switches, as in its documentation.",
        examples=["multi_stream:true"],
    )
    MS_NODE_TIMEOUT: Annotated[int, Field(ge=3, le=86_400)] | None = Field(
        default=None,
        description="Seconds without heartbeat until a worker counts as lost, at least 3 (2 breaks start-up). Runtime "
        "default 30; 900 on large clusters.",
        examples=[30],
    )
    MS_TOPO_TIMEOUT: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        default=None, description="Seconds in which all workers have to register. Runtime default 600.", examples=[600]
    )
    MS_RECEIVE_MSG_TIMEOUT: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        default=None, description="Seconds that a worker waits for the scheduler. Runtime default 300.", examples=[300]
    )
    MS_RETRY_INTERVAL_LOWER: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        default=None, description="Shortest wait between registration attempts, seconds. 1 starts faster.", examples=[1]
    )
    MS_RETRY_INTERVAL_UPPER: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        default=None, description="Longest wait between registration attempts, seconds. 1 starts faster.", examples=[1]
    )
    MS_DISABLE_HEARTBEAT: Switch | None = Field(
        default=None, description="1 turns the detection of lost workers off. Runtime default 0.", examples=[0]
    )
    GLOG_v: Annotated[int, Field(ge=0, le=4)] | None = Field(
        default=None,
        description="MindSpore log: 0 debug, 1 info, 2 warning, 3 error, 4 critical. Runtime default 2.",
        examples=[2],
    )
    OMP_NUM_THREADS: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="Threads of CPU operators, at least 1. Runtime default: all cores.", examples=[8]
    )
    TOKENIZERS_PARALLELISM: Literal["true", "false"] | bool | None = Field(
        default=None, description="Threads inside the tokenizer; false where data workers fork.", examples=[False]
    )

    def variables(self) -> dict[str, str]:
        """Give what is set, as the strings that the workers see."""
        stated = self.model_dump(exclude_none=True)
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in stated.items()}
