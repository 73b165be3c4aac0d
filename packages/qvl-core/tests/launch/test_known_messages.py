"""Known log messages: lines as they stand in the public issues that `source` names, shortened, and what is told."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from qvl_core.launch.blame import StarterReport
from qvl_core.launch.failures import Failure
from qvl_core.launch.known_messages import INNER_ERROR, KNOWN, explained_lines, known_in
from qvl_core.launch.log_file import LAUNCHER_LOG, rank_log
from qvl_core.launch.report import Reporter
from qvl_core.launch.watch import Look
from qvl_core.launch_plan import RankPlace
from qvl_core.parallel.mesh import Coordinate

SAMPLES = {
    "operator-unsupported": "No supported Ops kernel and engine are found for [Conv3D1], optype [Conv3D].",
    "rank-table": "[ERROR] HCCL: Config_Error_Ranktable(EI0014): the rank table is invalid",
    "cann-libraries-missing": "Load dynamic library: libmindspore_ascend.so.2 failed. libge_runner.so: cannot open "
    "shared object file: No such file or directory",
    "driver-library-missing": "libascend_hal.so: cannot open shared object file: No such file or directory",
    "no-ascend-in-mindspore": "RuntimeError: Unsupported device target Ascend. This process only supports one of the "
    "['CPU'].",
    "versions-do-not-pair": "[WARNING] ME(16848:281469675719664,MainProcess): [mindspore/run_check/_check_version.py] "
    "MindSpore version 2.1.1 and Ascend AI software package (Ascend Data Center Solution)version 1.84 does not match",
    "operators-not-installed": "[ERROR] KERNEL(40354,fffdd6e1f1e0,python): [op_info_utils.cc:172] Get op info json "
    "suffix path failed, soc_version: Ascend310P3",
    "cann-python-part": "[ERROR] TUNE(2440326,python): ModuleNotFoundError: No module named 'tbe.common'",
    "cann-halves-differ": "LoadLib: error = op_impl/host_cpu/libops_host_cpu.so: undefined symbol: _ZN2ge14",
    "operators-of-another-chip": "E30006: 2025-11-19-11:14:58.516.606 Failed to verify the OPP",
    "device-not-visible": "SetDevice:Set visible device failed, invalid device=0, input visible devices:4",
    "device-service": "tsd client wait response fail, device response code[1]. unknown device error.[FUNC:WaitRsp]",
    "inner-error": "EZ9999: Inner Error!",
    "old-c-library": "ImportError: /lib/x86_64-linux-gnu/libm.so.6: version `GLIBC_2.27' not found (required by x.so)",
    "npu-in-use-or-hidden": "dcmi module initialize failed. ret is -8005",
    "device-absent": "[PID: 379] 2026-05-01 Device_Absent/Abnormal(EL0001): Device not found or invalid.",
    "device-lost": "Device[0] lost heartbeat.[FUNC:SyncTask][FILE:direct_hwts_engine.cc][LINE:407]",
    "device-memory": "[PID: 210907] 2026-04-09-21:56:40.384.694 Memory_Allocation_Failure(EL0004): Failed to allocate "
    "memory requested by GE module.",
    "device-open": "open device 2 failed, runtime result = 507033.[FUNC:ReportCallError][FILE:log_inner.cpp][LINE:148]",
    "hccl-port-taken": "EJ0003: [PID: 159] 2025-03-26-17:01:02.816.428 Failed to bind the IP port. Reason: The IP "
    "address and port have been bound already.",
    "scheduler-port-taken": "Failed to call bind, url: 127.0.0.1:2229 Address already in use",
    "aicpu-exception": "The error from device(chipId:0, dieId:0), serial number is 13, an exception occurred during "
    "AICPU execution, stream_id:2, task_id:19016, errcode:21008, msg:inner error.",
    "aicore-exception": "Message info[0]:RTS_HWTS: aicore exception, slot_id=31, stream_id=3",
    "hccl-transport": "EI0009: [PID: 2225827] 2025-09-24-20:59:48 Transport init error. Reason: "
    "[Create][DestLink]Create Dest error!",
    "hccl-connect-timeout": "EI0006: 2024-08-05-18:15:21.270.506 Getting socket times out. Reason: Remote Rank did "
    "not send the data in time.",
    "hccl-exec-timeout": "EI0002: [PID: 13075] The wait execution of the Notify register times out. Reason: The "
    "Notify register has not received the Notify record from remote rank: [unknown].",
    "stream-timeout": "EE1002: 2024-09-03-16:50:00 Stream synchronize timeout. rtDeviceSynchronize execute failed",
    "hccl-init": "[ERROR] HCCL(36035): [op_base.cc:974] errNo[0x0000000005000002]HcclCommInitRootInfo failed.",
    "copy-unit": "The error from device(chipId:1, dieId:0), serial number is 6. there is a fftsplus sdma error, sdma "
    "channel is 2",
    "runtime-initialization": "RuntimeError: Ascend kernel runtime initialization failed. The details refer to "
    "'Ascend Error Message'.",
    "static-tls": "ImportError: /lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block",
    "dtype-unsupported": "RuntimeError: call aclnnCast failed, detail:EZ1001: [PID: 775588] "
    "2025-07-01-15:17:20.355.304 self not implemented for DT_BFLOAT16, should be in dtype support list "
    "[DT_FLOAT16,DT_FLOAT,DT_DOUBLE,].",
    "earlier-run-not-gone": "EJ0001: 2024-05-21-11:57:54.167.645 Failed to initialize the HCCP process. Reason: Maybe "
    "the last training process is running.",
    "device-memory-broken": "rtStreamSynchronize execute failed, reason=[hbm Multi-bit ECC "
    "error][FUNC:FuncErrorReason]",
    "aicore-timeout": "rtDeviceSynchronizeWithTimeout execute failed, reason=[aicore timeout][FUNC:FuncErrorReason]",
    "hccl-arguments-differ": "EI0005: The arguments for collective communication are inconsistent between ranks: tag "
    "[HcomAllReduce_6629421139219749105_0], parameter [count], local [9556480], remote [9555712]",
    "hccl-rank-missing": "[PID: 237] 2026-10-09-08:38:04.978.003 Communication_Error_Ranktable_Detect(EI0015): Failed "
    "to collect cluster information of the communicator based on rootInfo detection. Reason: No rank in the "
    'communicator can connect to the root node within the timeout period. List of unconnected ranks: "[1,7,]".',
    "disk-full": "[ERROR] TBE(116147,python):2024-12-11-15:58:23.895.658 msg_mgr_dump raise error[[Errno 28] No space "
    "left on device]",
    "network-port-down": "RuntimeError: EJ0002: [PID: 38079] 2025-07-15-12:45:31.202.787 The network port is down.",
    "worker-lost": "[mindspore/parallel/cluster/process_entity/_api.py:431] Time out nodes are ['3']",
}
NEIGHBOURS = (
    "step 10: loss 0.6002, 507 tokens",
    "step 40 | tokens 1507015 | loss 1.2",
    "step 41 | tokens 507015 | loss 1.2",
    "result of step 40: 15070150",
    "[INFO] HCCL(1): HcclGetRootInfo success, take time [12]us",
    "HcclCommInitRootInfo success",
    "lost heartbeat counter: 0",
    "WARNING: EI0002 and EI0006 are explained in docs/environment.md",
    "[INFO] RUNTIME: aicore exception handler registered",
    "Stream synchronize timeout is 0",
    "tokens EE9999x, 9999 of them",
    "open device 0 success",
    "No module named 'tensorboardX'",
    "No module named 'tests'",
    "saved 507015 tokens",
    # Of runs that went well, as users show them.
    (
        "[INFO] RUNTIME(34,python):2025-11-18-09:33:00.290 [task_fail_callback_data_manager.cc:58] 36 "
        "TaskFailCallBackManager: Constructor."
    ),
    (
        "[EVENT] PROFILING(846,python):2025-04-23-09:25:06.507 [msprof_callback_impl.cpp:336] >>> (tid:846) Started to "
        "register profiling ctrl callback."
    ),
    (
        "[TRACE] GE(116147,python):2024-12-11-15:58:21.246 [status:INIT] [ge_api.cc:144]116147 "
        "GEInitializeImpl:GEInitialize start"
    ),
    (
        "[WARNING] DISTRIBUTED(22503,7f9fd5b43100,python):2023-08-09-10:12:36.823 "
        "[mindspore/ccsrc/distributed/cluster/cluster_context.cc:194] BuildCluster] Topology build timed out., "
        "retry(1/60)."
    ),
    (
        "[WARNING] DISTRIBUTED(22503,7f9fd5b43100,python):2023-08-09-10:12:39.823 "
        "[mindspore/ccsrc/distributed/cluster/cluster_context.cc:196] BuildCluster] Cluster is successfully "
        "initialized."
    ),
    (
        "[WARNING] DEVICE(162844,fffce77fe1e0,python):2022-12-01-00:26:58.388.563 "
        "[mindspore/ccsrc/plugin/device/ascend/hal/device/ascend_data_queue.cc:257] Push] Device queue thread had been "
        "interrupted by TdtHandle::DestroyHandle, you can ignore the above error: 'failed to send...'."
    ),
    (
        "[WARNING] HCCL_ADPT(89999,ffffa5a47010,python):2023-01-16-20:43:48.480.465 "
        "[mindspore/ccsrc/plugin/device/ascend/hal/hccl_adapter/hccl_adapter.cc:47] GenHcclOptions] The environment "
        "variable DEPLOY_MODE is not set."
    ),
    (
        "[EVENT] DRV(3536113,python):2023-07-14-20:36:03.278 [ascend][curpid: 3536113, "
        "3536113][drv][devmm][_devmm_mem_stats_show 158]HOST_MEM Cached_size:29360128Bytes"
    ),
    "data: retrieved 561003 samples",
    "The total number of timed out node is 0",
    "aclrtSetDevice ended, ret[0]",
    "Call aclrtSetDevice failed, ret[0]. Got device count[8]",
    "MindSpore version 2.7.0 and technical notes",
    "data: 561112 results of the search",
    "interpreter 507014",
    "loss result: 507014",
    "load result: 207018 rows",
    "result of step 12: 507018",
    "validation result = 507035",
    "secret: 507013",
    "failed to read 507015 of 600000 samples, error code 0",
    "no error code in 507054 lines",
    "error code: 5070181",
    "[INFO] UCE ERROR handling is enabled",
    "OSError: [Errno 28] No space left on device: inotify watch limit reached",
    "tail: inotify cannot be used, reverting to polling: No space left on device",
    "device 3: ECC error count 0, UCE error count 0",
    "topo exchange server is ready",
    "[INFO] TBE: binary_info_config.json was read",
    "out of memory is not possible: 12 GiB are free",
    "the aicore timeout is 1836 s",
    "There is space left on device 0",
    "the ranktable is not used",
    "dtype DT_BFLOAT16 is implemented",
    "the HCCP process was initialized",
    "WARNING: Memory not enough for data.workers = 8, 4 are started",
    "WARNING: 2 of 1000 samples are longer than data.sequence_length",
    "HCCL_CONNECT_TIMEOUT is 120 in this shell and 1200 in the recipe; the recipe's value is used",
    "ValueError: the image is 20 x 4000 pixels",
    '  File "loop.py", line 50, in train',
)
PLACE = RankPlace(
    rank=0, node=0, device=0, place=Coordinate(pp=0, dp=0, tp=0), vision_layers=(0, 1), text_layers=(0, 1)
)
LOOK = Look(
    rank=0,
    process=7,
    counter=1,
    marked_at=0.0,
    longest_s=None,
    waits=0,
    waiting=False,
    done=False,
    state="step 3",
    vitals=None,
)


def test_every_known_message_has_a_sample() -> None:
    assert set(SAMPLES) == {known.name for known in (*KNOWN, INNER_ERROR)}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_sample_line_is_known_for_what_it_is(name: str) -> None:
    first = known_in(["something else", SAMPLES[name]])[0]
    assert first.known.name == name
    assert first.line == SAMPLES[name]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("device-memory", "Out of Memory!!! Request memory size: 33100113920B, Memory Statistic:"),
        (
            "device-memory",
            (
                "[PID: 2103452] 2025-11-03-20:18:46.447 Resource_Error_Insufficient_Device_Memory(EI0011): Failed to "
                "allocate [size: [0.25MB, 3MB], Affected by QP depth configuration.] bytes of NPU memory."
            ),
        ),
        (
            "driver-library-missing",
            "npu-smi: error while loading shared libraries: libc_sec.so: cannot open shared object file",
        ),
        (
            "operators-not-installed",
            (
                "detail:EZ1001: [PID: 72153] 2025-03-04-15:41:40.695 Get path and read binary_info_config.json failed, "
                "please check if the opp_kernel package is installed!"
            ),
        ),
        ("operators-not-installed", "AclNN_Inner_Error(EZ9999):  Parse dynamic kernel config fail."),
        ("operators-not-installed", "call aclnnInplaceZero failed, error code is 561112"),
        (
            "rank-table",
            "EI0004: The ranktable is invalid,Reason:[The ranktable config devId is inconsistent with the local",
        ),
        ("aicpu-exception", "wait for compute device to finish failed, runtime result = 507018.[FUNC:ReportCallError]"),
        ("aicpu-exception", "[Error]: The aicpu execution is abnormal. "),
        ("aicore-timeout", "[Error]: The aicore execution times out. "),
        ("aicore-timeout", "RuntimeError: ACL stream synchronize failed, error code:507014"),
        ("aicore-exception", "aclrtSynchronizeStream ret = 507035"),
        ("aicore-timeout", "[ERROR] RUNTIME(1,python): wait for compute device failed, runtime result = 507014."),
        ("device-memory", "Malloc device memory failed, errorCode=207018, size 2"),
        ("copy-unit", "memory copy failed, ret[507049]"),
        ("copy-unit", "memory copy failed, rt_ret=507013, acl_error_code: [507013]"),
        ("aicpu-exception", "the stream ended with error code 507018"),
        ("aicore-exception", "task failed, result = 507035"),
        ("device-memory-broken", "RuntimeError: UCE ERROR"),
        ("device-memory-broken", "NPU function error: UCE ERROR. [ERROR] 2026-11-27"),
        ("disk-full", "OSError: [Errno 28] No space left on device: '/out/step_10'"),
        ("device-memory-broken", "aclrtSynchronizeStream failed, error code is 507054"),
        ("hccl-rank-missing", "[RanktableDetect] topo exchange server get socket timeout! timeout[120 s]"),
        (
            "static-tls",
            "ImportError: /x/scikit_learn.libs/libgomp-d22c30c5.so.1.0.0: cannot allocate memory in static TLS block",
        ),
        ("device-lost", "rtDeviceSynchronizeWithTimeout execution failed, reason=lost heartbeat[FUNC:FuncErrorReason]"),
        ("stream-timeout", "SynchronizeExecutedTask:Stream synchronize timeout, device_id=11, stream_id=103"),
        ("stream-timeout", "stream synchronize timeout:1000, ret:5"),
        (
            "device-absent",
            (
                "Call aclrtSetDevice failed, ret[107001]. Got device count[8] and device id[9], please check if device "
                "id is valid."
            ),
        ),
        ("versions-do-not-pair", 'MindSpore version 2.7.0 and "te" wheel package version 7.3 does not match. For'),
        ("device-open", "Call aclrtSetDevice failed, ret[507033]. Got device count[8] and device id[0], please check"),
        ("device-open", "Call aclrtSetDevice failed, ret[507899]. Got device count[8] and device id[0], please check"),
        (
            "worker-lost",
            (
                "[ERROR] DISTRIBUTED: The total number of timed out node is 1. Timed out node list is: [const "
                "vector]{3}, worker 3 is the first one timed out, please check its log."
            ),
        ),
        ("hccl-connect-timeout", "Wait for the peer failed. ErrorCode=EI0006."),
        ("hccl-connect-timeout", "error code: EI0006"),
        ("hccl-exec-timeout", "error code [EI0002] of the task"),
        ("hccl-exec-timeout", "[Error Code: EI0002]"),
        ("hccl-connect-timeout", "[EI0006] x"),
        ("device-memory", "[Error]: EL0004 Failed to allocate memory"),
        ("stream-timeout", "EE1002 stream sync timeout"),
        ("aicore-exception", "rtKernelLaunchWithHandleV2 failed: 507035"),
        ("inner-error", "E39999: Inner Error!"),
        ("inner-error", "E19999: Inner Error!"),
        ("inner-error", "EH9999: Inner Error!"),
        ("inner-error", "EE9999[PID: 43311] something else"),
        ("aicpu-exception", "E39999  Aicpu kernel execute failed, device_id=0, stream_id=12, task_id=2.[FUNC:Print]"),
        ("aicpu-exception", "Kernel task happen error, retCode=0x2a, [aicpu exception].[FUNC:PreCheckTaskErr]"),
        ("cann-python-part", "EH9999  [Init][Env]init env failed![FUNC:ReportInnerError][FILE:log_inner.cpp]"),
        ("cann-python-part", "        build op model failed, result = 500001[FUNC:ReportInnerError]"),
        (
            "operators-not-installed",
            (
                "EZ9999  Cannot parse json for config file "
                "[/usr/local/Ascend/latest/opp/built-in/op_impl/ai_core/tbe//kernel/config/ascend910/cast.json]."
            ),
        ),
        ("operators-not-installed", "        Op Cast does not has any binary."),
        ("aicore-exception", "AclrtSynchronizeStreamWithTimeout(copy_stream), error code is 507035"),
        ("aicore-exception", "[Error]: The vector core execution is abnormal."),
        ("aicore-exception", "rtDeviceSynchronizeWithTimeout execute failed, reason=[vector core exception][FUNC:F]"),
        ("copy-unit", "[Error]: System Direct Memory Access (DMA) hardware execution error."),
        ("copy-unit", "AclrtSynchronizeDeviceWithTimeout, error code is 507013"),
        ("device-memory", "        alloc device memory failed, runtime result = 207001[FUNC:ReportCallError]"),
        (
            "cann-libraries-missing",
            "ImportError: libascend_protobuf.so.3.13.0.0: cannot open shared object file: No such",
        ),
        ("cann-libraries-missing", "ImportError: libacl_tdt_channel.so: cannot open shared object file: No such file"),
        ("stream-timeout", "W NPUStream.cpp:409] Warning: NPU warning, error code is 507046[Error]:"),
        ("hccl-transport", "[rank1]: EI0009: [PID: 2225827] 2025-09-24-20:59:48.119.066 Transport init error."),
        ("hccl-init", "HCCL function error: hcclCommInitRootInfoConfig(numRanks, &rootInfo, rank), error code is 1"),
        ("operators-not-installed", "Ascend opp_kernels is not installed"),
        ("cann-python-part", "ModuleNotFoundError: No module named 'decorator'"),
        ("hccl-port-taken", "Communication_Error_Bind_IP_Port(EI0019)"),
        ("hccl-connect-timeout", "Communication_Error_Get_Socket(EI0006): Getting socket times out."),
        ("npu-in-use-or-hidden", "dcmi model initialized failed, because the device is used. ret is -8020"),
        ("aicore-exception", "rtStreamSynchronize execute failed, runtime result = 507015."),
        ("aicore-exception", "aclrtSynchronizeStream failed, ret:507015"),
        (
            "device-memory",
            "Device(id:0) memory isn't enough and alloc failed, kernel name: Default/MatMul-op0, alloc size: 2B.",
        ),
        ("device-memory", "#umsg#Memory not enough:#umsg#Device(id:0) memory isn't enough"),
        ("device-memory", "- Memory not enough:"),
        ("aicore-exception", "RuntimeError: AclrtSynchronizeDeviceWithTimeout, error code is 507015"),
    ],
)
def test_other_forms_of_the_same_message_are_known_too(name: str, line: str) -> None:
    assert known_in([line])[0].known.name == name


@pytest.mark.parametrize(("code", "name"), [("107001", "device-absent"), ("507033", "device-open")])
def test_a_failure_to_set_the_device_has_one_cause(code: str, name: str) -> None:
    line = f"Call aclrtSetDevice failed, ret[{code}]. Got device count[8] and device id[9]"
    assert [found.known.name for found in known_in([line])] == [name]


@pytest.mark.parametrize("line", NEIGHBOURS)
def test_ordinary_lines_are_not_known(line: str) -> None:
    assert known_in([line]) == ()


def test_every_row_cites_issues_and_says_what_to_do() -> None:
    for known in (*KNOWN, INNER_ERROR):
        source = r"(?:[\w.-]+/[\w.-]+#\d+|(?:MindSpore|CANN) documentation|(?:Ascend/pytorch|MindSpore) sources)"
        assert re.fullmatch(rf"{source}(, {source})*", known.source), known.name
        assert known.cause
        assert known.fix


def test_what_names_a_cause_stands_before_the_wait_that_echoes_it() -> None:
    found = known_in([SAMPLES["hccl-exec-timeout"], SAMPLES["hccl-connect-timeout"], SAMPLES["device-memory"]])
    assert [match.known.name for match in found] == ["device-memory", "hccl-connect-timeout"]
    assert "fix: " in explained_lines(found)[2]
    for cause in ("disk-full", "earlier-run-not-gone", "device-memory-broken", "aicore-timeout", "hccl-rank-missing"):
        found = known_in([SAMPLES["hccl-exec-timeout"], SAMPLES["hccl-connect-timeout"], SAMPLES[cause]])
        assert found[0].known.name == cause


def test_an_inner_error_is_told_only_where_nothing_else_is() -> None:
    assert [match.known.name for match in known_in([SAMPLES["inner-error"]])] == ["inner-error"]
    assert [match.known.name for match in known_in([SAMPLES["inner-error"], SAMPLES["device-memory"]])] == [
        "device-memory"
    ]


def test_what_msrun_and_its_scheduler_wrote_is_looked_through_where_no_rank_began(tmp_path: Path) -> None:
    (tmp_path / LAUNCHER_LOG).write_text("nothing of use")
    (tmp_path / "node_000").mkdir()
    (tmp_path / "node_000" / "scheduler.log").write_text(SAMPLES["scheduler-port-taken"])
    assert "unset the MS_ variables" in Reporter([PLACE], tmp_path).starter_failed("msrun", 1)
    early = replace(LOOK, process=0)
    assert "unset the MS_ variables" in Reporter([PLACE], tmp_path).vanished(early, None, seen_s=1.0)


def test_a_rank_that_raises_is_told_with_cause_and_fix(tmp_path: Path) -> None:
    failure = Failure(rank=0, exit_code=1, text=f"qvl: RuntimeError: {SAMPLES['device-memory']}", moment=0, log_bytes=0)
    told = Reporter([PLACE], tmp_path).failed(failure)
    assert "cause: the memory of the device is used up" in told
    assert told.splitlines()[-1].startswith("rank 0 (stage 0, tp 0, dp 0) failed first; its log: ")


def test_a_rank_that_dies_without_a_word_is_told_by_its_log(tmp_path: Path) -> None:
    # Forty more lines below it: CANN's own stack is long.
    lines = [SAMPLES["hccl-port-taken"], *(f"frame {number}" for number in range(40))]
    rank_log(tmp_path, 0).write_text("\n".join(lines))
    report = StarterReport(rank=0, signal_number=signal.SIGABRT)
    told = Reporter([PLACE], tmp_path).vanished(LOOK, report, seen_s=1.0)
    assert "env.HCCL_IF_BASE_PORT = 61000" in told
    assert "vllm-project/vllm-ascend#405" in told


def test_an_earlier_run_in_the_same_log_explains_nothing(tmp_path: Path) -> None:
    old = f"{SAMPLES['hccl-port-taken']}\n--- 2026-11-27 01:02:03 +0000 process 8: python -m x\nstep 1\n"
    rank_log(tmp_path, 0).write_text(old)
    assert "known message" not in Reporter([PLACE], tmp_path).vanished(LOOK, None, seen_s=1.0)


def test_msrun_that_fails_itself_is_told_by_its_output(tmp_path: Path) -> None:
    (tmp_path / LAUNCHER_LOG).write_text(SAMPLES["scheduler-port-taken"])
    assert "unset the MS_ variables" in Reporter([PLACE], tmp_path).starter_failed("msrun", 1)
