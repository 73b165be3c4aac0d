"""Messages of HCCL, CANN and MindSpore that people meet in logs, what causes them, and what to do. Pure.

Every row is a message that was found in a public issue, or that the documentation of MindSpore or CANN or the sources
of Ascend's adapter for PyTorch quote; `source` names it. Rows are ordered by how much they explain: a time-out on one
rank is often the echo of a failure on another, so what names a cause stands above what names a wait.

The table is longer than a module should be, and stays whole: where a row stands among the others is part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# A log may hold thousands of lines of one failing operation; nobody reads more than this many explanations.
_SHOWN = 2
_LINE_LIMIT = 4000


@dataclass(frozen=True, kw_only=True)
class KnownMessage:
    """A message, as a pattern over one line, with its cause, its fix, and the issues that show it."""

    name: str
    pattern: str
    cause: str
    fix: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """A known message and the line that it was found in."""

    known: KnownMessage
    line: str


def _code(codes: str) -> str:
    """Give the pattern of error codes where they are reported, not merely named.

    `EI0006: `, `(EI0006)`, `[EI0006]`, `ErrorCode=EI0006`, and `EI0006 ...` at the begin of a line or a message.
    """
    begins = rf"(?:^|\]:? ?)(?:{codes})(?=$| (?!and |or |is |are ))"
    stated = rf"\b[Ee]rror ?[Cc]ode\W{{1,3}}(?:{codes})\b"
    return rf"(?:{begins}|{stated}|\b(?:{codes})(?=[:)\[\]]|  ))"


def _result(codes: str) -> str:
    """Give the pattern of codes that a call of CANN ended with, not of a number that follows such words anywhere.

    `runtime result = 507015`, `failed, result = 500001`, `ret:507015`, `ret = 507035`, `error code is 507015`,
    `errorCode = 507033`, `failed: 507035`. A result that is neither the runtime's nor of a failure is anybody's.
    """
    named = r"(?:(?:runtime|fail(?:ed)?,) result|ret)(?: is[\s:]|\s?[:=\[(])|(?i:error[ _]?code)(?: is)?[\s:=\[(]"
    return rf"(?<![A-Za-z0-9])(?:{named}|failed:)[\s:=\[(]{{0,3}}(?:{codes})\b"


KNOWN: tuple[KnownMessage, ...] = (
    KnownMessage(
        name="cann-libraries-missing",
        pattern=r"lib(?:ge_\w+|acl\w*|ascendcl|ascend_protobuf|ascendalog|cann\w*|error_manager|graph\w*|hccl\w*"
        r"|nnopbase|opapi|platform|profapi|register|runtime|tsdclient)\.so[\w.]*: cannot open shared object file",
        cause="MindSpore's Ascend part cannot load a library of CANN: CANN is not installed, its set_env.sh was not "
        "sourced in this shell, or it is of a version without that library",
        fix="source set_env.sh of the CANN that pairs with this MindSpore, in the job script too; `qvl doctor` shows "
        "the pair",
        source="mindspore-lab/mindyolo#273, mindspore-ai/mindspore#236",
    ),
    KnownMessage(
        name="driver-library-missing",
        pattern=r"lib(?:ascend_hal|c_sec|dcmi|drvdsmi_host|mmpa)\.so[\w.]*: cannot open shared object file",
        cause="the library of the NPU driver cannot be loaded: the driver is not installed on this machine, its "
        "folder is not mounted in this container, or LD_LIBRARY_PATH does not lead there",
        fix="mount the host's /usr/local/Ascend/driver in the container (read-only is enough), or install the driver "
        "on the host; then source CANN's set_env.sh, and where npu-smi itself lacks it: export "
        "LD_LIBRARY_PATH=/usr/local/Ascend/driver/lib64/common:/usr/local/Ascend/driver/lib64/driver:$LD_LIBRARY_PATH",
        source="vllm-project/vllm-ascend#1440, Project-HAMi/HAMi#615",
    ),
    KnownMessage(
        name="no-ascend-in-mindspore",
        pattern=r"Unsupported device target Ascend",
        cause="this MindSpore knows no Ascend: its plug-in did not load (CANN missing or of another version)",
        fix="source CANN's set_env.sh, then `qvl doctor`; it names the first thing that is wrong",
        source="mindspore-lab/mindyolo#273",
    ),
    KnownMessage(
        name="versions-do-not-pair",
        pattern=r"MindSpore version \S+ and [\"']?(?:Ascend AI software package|te\b|hccl\b)",
        cause="MindSpore and CANN are of versions that were not built for each other",
        fix="install the MindSpore that pairs with this CANN: the table is in docs/ascend.md, `qvl doctor` checks it",
        source="mindspore-lab/mindyolo#217",
    ),
    KnownMessage(
        name="operators-not-installed",
        pattern=r"Get op info json suffix path failed|Load op info json failed|opp_kernels is not installed"
        r"|Cannot parse json for config file \[\S*/op_impl/|Op \w+ does not has any binary"
        r"|Get path and read binary_info_config\.json failed|Parse dynamic kernel config fail"
        r"|" + _result("561003|561107|561108|561112"),
        cause="the operators (ops, kernels) of CANN for this chip are not installed, or are of another version",
        fix="install the CANN operator package for this chip, of the same version as the toolkit",
        source="mindspore-ai/mindspore#246, Ascend/MindSpeed-LLM#2, hiyouga/LlamaFactory#3796, "
        "vllm-project/vllm-ascend#237, vllm-project/vllm-ascend#4859",
    ),
    KnownMessage(
        name="cann-python-part",
        pattern=r"No module named '(?:tbe|te|decorator)\b|\[Init\]\[Env\]init env failed"
        r"|[Bb]uild op model failed, result = 500001",
        cause="the Python part of CANN does not load in this environment: set_env.sh was not sourced here, or what it "
        "needs is not installed",
        fix="source set_env.sh in this shell; then pip install the module that the line names, if it is none of "
        "CANN's, or where none is named: attrs cffi decorator numpy psutil pyyaml scipy sympy",
        source="Ascend/pytorch#29, Ascend/pytorch#7, microsoft/onnxruntime#14121",
    ),
    KnownMessage(
        name="cann-halves-differ",
        pattern=r"libops_host_cpu\.so: undefined symbol",
        cause="two versions of CANN are mixed: the operators do not fit the toolkit",
        fix="source set_env.sh of one CANN only, in a fresh shell; reinstall toolkit and operators of one version",
        source="Ascend/samples#21",
    ),
    KnownMessage(
        name="operators-of-another-chip",
        pattern=_code("E30006") + r"|Failed to verify the OPP",
        cause="the operators (opp) of CANN are not those of this chip or of this toolkit",
        fix="install the CANN operator package for this chip, of the same version as the toolkit; one set_env.sh only",
        source="vllm-project/vllm-ascend#4284",
    ),
    KnownMessage(
        name="old-c-library",
        pattern=r"version [`']GLIBC(?:XX)?_[\d.]+' not found",
        cause="the system's C or C++ library is older than the one that the wheel was built with",
        fix="conda install libstdcxx-ng for GLIBCXX; for GLIBC a newer system is needed",
        source="mindspore-ai/mindspore#87",
    ),
    KnownMessage(
        name="static-tls",
        pattern=r"(?:libgomp|libomp|\.so)\S*: cannot allocate memory in static TLS block",
        cause="a library that has to be loaded early was loaded late: on aarch64, what imports it first decides",
        fix="export LD_PRELOAD=FILE in this shell, with the file that the line names before `: cannot allocate`",
        source="hiyouga/LlamaFactory#8768, mindspore-lab/mindocr#700, PaddlePaddle/PaddleX#2193",
    ),
    KnownMessage(
        name="dtype-unsupported",
        pattern=r"not implemented for DT_\w+, ?should be in dtype support list",
        cause="this chip, or this CANN, computes that operation in none of the dtype that the line names: 910A and "
        "310P have no bfloat16",
        fix="a chip with bfloat16 (910B or newer), or --set model.dtype=float32, slower and in twice the memory",
        source="hiyouga/LlamaFactory#4165, hiyouga/LlamaFactory#7522, vllm-project/vllm-ascend#9294",
    ),
    KnownMessage(
        name="operator-unsupported",
        pattern=r"No supported Ops kernel and engine are found for|[Bb]uild op model failed, result = 500002",
        cause="this CANN has no kernel for the operator that the line names, in this dtype or on this chip",
        fix="a newer CANN, driver and operator package that pair with this MindSpore; QVL_KERNELS=reference avoids "
        "fused kernels, QVL_KERNELS=reference:attention a single one",
        source="hiyouga/LlamaFactory#6694",
    ),
    KnownMessage(
        name="rank-table",
        pattern=_code("EI0004|EI0014") + r"|Config_Error_Ranktable\b|The ranktable is invalid",
        cause="HCCL refuses a rank table: a file of another chip generation or of an earlier run is in its way",
        fix="unset RANK_TABLE_FILE: qvl needs none; on the host move /etc/hccl_rootinfo.json of an older fleet aside",
        source="gpustack/runtime#27, MindSpore documentation",
    ),
    KnownMessage(
        name="npu-in-use-or-hidden",
        pattern=r"dcmi mod(?:ule|el) initializ\w+ failed.*-80(?:05|20)|because the device is used\. ret is -8020",
        cause="the driver refuses this container: the device belongs to another one, or device nodes or the driver "
        "folder are not mounted",
        fix="give the container free devices, davinci_manager, devmm_svm, hisi_hdc and the driver folder",
        source="vllm-project/vllm-ascend#2698, Project-HAMi/ascend-device-plugin#23, Ascend/cann-container-image#46",
    ),
    KnownMessage(
        name="device-not-visible",
        pattern=r"Set visible device failed, invalid device",
        cause="ASCEND_RT_VISIBLE_DEVICES names devices that this machine or container does not have",
        fix="name those that npu-smi info lists, from 0 inside a container, as many as launch.devices_per_node",
        source="gpustack/gpustack#3352",
    ),
    KnownMessage(
        name="earlier-run-not-gone",
        pattern=_code("EJ0001") + r"|Failed to initialize the HCCP process",
        cause="the communication process of an earlier run is still on the device, or belongs to another container",
        fix="end what is left of the earlier run (npu-smi info shows its processes), wait 10 seconds, run again",
        source="hiyouga/LlamaFactory#3839, verl-project/verl#332",
    ),
    KnownMessage(
        name="device-memory-broken",
        pattern=r"reason=\[(?:hbm Multi-bit ECC error|device mem error)\]|HBM_MULTI_?BIT_ECC_ERROR"
        r"|\bUCE ERROR\b(?! [a-z])|" + _result("507053|507054"),
        cause="memory of the device is faulty: it gave back other bits than were written, and could not mend them",
        fix="leave this device out (env.ASCEND_RT_VISIBLE_DEVICES) and run the same command to go on; then npu-smi "
        "info -t ecc -i N, and the administrator",
        source="Ascend/pytorch sources, MindSpore documentation",
    ),
    KnownMessage(
        name="device-absent",
        pattern=r"\(?EL0001\)?: ?.*Device not found|EL0001.*[Dd]evice|Device not found or invalid"
        r"|aclrtSetDevice failed, " + _result("107001"),
        cause="the device number does not exist here, or the device is ill; where several machines have one host name, "
        "MindSpore counts their devices as one machine's",
        fix="npu-smi info; then env.ASCEND_RT_VISIBLE_DEVICES with healthy devices only; `hostname` has to differ",
        source="vllm-project/vllm-ascend#8186, MindSpore documentation",
    ),
    KnownMessage(
        name="device-lost",
        pattern=r"(?:[Dd]evice\S* |reason=)lost heartbeat|runtime result = 507010",
        cause="the device stopped answering: a hardware or driver fault, or it was reset by somebody",
        fix="npu-smi info on that machine; reset or leave out the device, then run the same command to go on",
        source="vllm-project/vllm-ascend#8186",
    ),
    KnownMessage(
        name="device-memory",
        pattern=_code("EL0004|EI0011")
        + r"|Memory_Allocation_Failure|Resource_Error_Insufficient_Device_Memory|Out of Memory!!! Request memory size"
        r"|" + _result("207018") + r"|TotalUsedMemStatistics .* more than total mem"
        r"|NPU out of memory|alloc device memory failed, runtime result|[Mm]emory isn't enough and alloc failed"
        r"|(?:#umsg#|^\s*- )Memory not enough",
        cause="the memory of the device is used up, by this run or by another process on it",
        fix="npu-smi info shows other processes; else a smaller micro batch or sequence_length, recompute, larger tp "
        "or pp, or a smaller HCCL_BUFFSIZE (each communicator takes twice this)",
        source="PKU-YuanGroup/Helios#62, hw-native-sys/PTOAS#341, candle-org/MindAct#1761, "
        "vllm-project/vllm-ascend#1993, MindSpore documentation, CANN documentation",
    ),
    KnownMessage(
        name="copy-unit",
        pattern=r"sdma error|Direct Memory Access \(DMA\) hardware execution error"
        r"|" + _result("507013|507049"),
        cause="a copy on the device failed: its memory is not there any more or belongs to another process, or the "
        "device is faulty",
        fix="npu-smi info: end other processes on the device; run again with env.MS_DEV_LAUNCH_BLOCKING = 1; where it "
        "comes again on one device only, leave that one out",
        source="vllm-project/vllm-ascend#1993, Ascend/pytorch#166",
    ),
    KnownMessage(
        name="device-open",
        # Other results of the same call have a cause of their own in this table.
        pattern=r"open device \d+ failed|device retain error"
        r"|aclrtSetDevice failed, ret(?!\W{1,3}(?:0|107001|207018|50705[34])\b)|" + _result("507033"),
        cause="the device cannot be opened: no memory left on it, another process holds it, or driver and CANN do not "
        "fit",
        fix="npu-smi info: end what is left of earlier runs, or choose other devices; then `qvl doctor`",
        source="Ascend/samples#21, Ascend/samples#16, hw-native-sys/PTOAS#341, MindSpore sources",
    ),
    KnownMessage(
        name="runtime-initialization",
        pattern=r"Ascend kernel runtime initialization failed",
        cause="MindSpore could not take the device: its memory is used by another process, or CANN and driver do not "
        "fit",
        fix="npu-smi info: end what is left of earlier runs, or choose other devices; then `qvl doctor`",
        source="mindspore-lab/mindyolo#236",
    ),
    KnownMessage(
        name="device-service",
        pattern=r"tsd client wait response fail",
        cause="the service on the device did not start: driver and CANN do not fit, or the device is ill",
        fix="npu-smi info, and reset the device if nobody uses it; `qvl doctor` compares driver, CANN and MindSpore",
        source="hiyouga/LlamaFactory#3839, vllm-project/vllm-ascend#4284",
    ),
    KnownMessage(
        name="hccl-port-taken",
        pattern=_code("EJ0003|EI0019") + r"|Failed to bind the IP port|listen on ip\S* and specific port\S* fail",
        cause="the port that HCCL listens on is taken: another run uses the same devices or the default ports 60000 "
        "to 60015, or the system gave one to a connection",
        fix="env.HCCL_IF_BASE_PORT = 61000 (another range for each run), or end the other run; keep the range free: "
        "sysctl -w net.ipv4.ip_local_reserved_ports=60000-60015",
        source="vllm-project/vllm-ascend#405, vllm-project/vllm-ascend#16205, vllm-project/vllm-ascend#4725, "
        "hiyouga/LlamaFactory#9330",
    ),
    KnownMessage(
        name="scheduler-port-taken",
        pattern=r"Failed to call (?:bind|socket listen), url: |Failed to init the tcp server",
        cause="the port where the processes meet is taken, or MS_ variables of another job are set in this shell",
        fix="--set launch.master=HOST:PORT with a free port; unset the MS_ variables that `qvl doctor` names",
        source="mindspore-lab/mindyolo#449",
    ),
    KnownMessage(
        name="disk-full",
        # What a full table of watched files says too: no disk is full then.
        pattern=r"^(?!.*(?i:inotify)).*No space left on device",
        cause="a disk is full: that of the output, of HOME, where CANN writes its logs (~/ascend/log), of TMPDIR, or "
        "/dev/shm",
        fix="df -h on the machine that the line comes from; make room there, or set HOME, TMPDIR or output.dir "
        "elsewhere",
        source="hiyouga/LlamaFactory#6309, hiyouga/LlamaFactory#275",
    ),
    KnownMessage(
        name="aicpu-exception",
        pattern=r"exception occurred during AICPU execution|[Aa]icpu kernel execute failed|\[aicpu exception\]"
        r"|aicpu execution is abnormal|" + _result("507018"),
        cause="an operator that runs on the device's CPU failed, most often for an index out of range",
        fix="run again with env.MS_DEV_LAUNCH_BLOCKING = 1: the Python stack then names the operator",
        source="candle-org/MindAct#1698, mindspore-lab/mindaudio#164, open-mmlab/mmcv#3203, "
        "vllm-project/vllm-ascend#2105",
    ),
    KnownMessage(
        name="aicore-exception",
        pattern=r"ai(?:core|vector|vec) (?:exception|error)\b(?! (?:handler|callback|count))|\[vector core exception\]"
        r"|(?:aicore|vector core) execution is abnormal"
        r"|" + _result("507015|507035"),
        cause="a kernel on the device failed: an input out of its range, a kernel of another CANN, or a faulty device",
        fix="run again with env.MS_DEV_LAUNCH_BLOCKING = 1 to find the operator; QVL_KERNELS=reference tells whether "
        "a fused kernel is at fault; `nox -s npu` tests each",
        source="tile-ai/tilelang-ascend#82, vllm-project/vllm-ascend#13647, hiyouga/LlamaFactory#3670, "
        "Ascend/pytorch#66",
    ),
    KnownMessage(
        name="aicore-timeout",
        pattern=r"\[(?:aicore|vector core) timeout\]|(?:aicore|vector core) execution times out"
        r"|" + _result("507014|507034"),
        cause="a kernel on the device did not end in time: its input makes it endless, it waits for another rank, or "
        "it is of another CANN",
        fix="look for a rank that failed with something else first; else run again with env.MS_DEV_LAUNCH_BLOCKING = "
        "1 to find the operator, and with QVL_KERNELS=reference",
        source="vllm-project/vllm-ascend#4972, vllm-project/vllm-ascend#5509, vllm-project/vllm-ascend#3529",
    ),
    KnownMessage(
        name="hccl-arguments-differ",
        pattern=_code("EI0005") + r"|arguments for collective communication are inconsistent between ranks",
        cause="two ranks meet in one collective with different sizes, dtypes or orders: their recipe, code, data, "
        "MindSpore or CANN differs",
        fix="several machines: `qvl doctor --recipe R --json` on each and `qvl doctor --compare`; one machine: report "
        "it with the line, which names the parameter and both values",
        source="MindSpore documentation, CANN documentation",
    ),
    KnownMessage(
        name="network-port-down",
        pattern=_code("EJ0002") + r"|The network port is down",
        cause="the network port of a device has no link: cable, switch, or the port's settings",
        fix="hccn_tool -i N -link -g for each device N of the machine that the line comes from; then the administrator",
        source="vllm-project/vllm-ascend#1815",
    ),
    KnownMessage(
        name="hccl-transport",
        pattern=_code("EI0009") + r"|Transport init error",
        cause="two devices could not open the link between them: the other failed earlier, or their network differs",
        fix="read the log of the other rank that the line names first; between machines check addresses and TLS: "
        "hccn_tool -i 0 -tls -g",
        source="vllm-project/vllm-ascend#3162",
    ),
    KnownMessage(
        name="hccl-rank-missing",
        pattern=_code("EI0015") + r"|_Ranktable_Detect\(|topo exchange (?:server|agent) get socket timeout",
        cause="not all ranks came to the start of HCCL: the ones in `unconnected ranks` failed earlier, are shut out "
        "by the network, or share a device with another",
        fix="read the logs of the ranks that the line names first; several machines: env.HCCL_SOCKET_IFNAME with the "
        "interface that reaches the others, and no firewall between them",
        source="CANN documentation",
    ),
    KnownMessage(
        name="hccl-connect-timeout",
        pattern=_code("EI0006") + r"|Getting socket times out|wait socket establish timeout",
        cause="a rank did not come to the first collective in time: it failed earlier, loads weights longer than "
        "HCCL_CONNECT_TIMEOUT, or the machines do not reach each other",
        fix="look for a rank that failed with something else first; slow start: env.HCCL_CONNECT_TIMEOUT = 1200 (up "
        "to 7200); several machines: HCCL_SOCKET_IFNAME, and equal TLS settings (hccn_tool -i 0 -tls -g)",
        source="vllm-project/vllm-ascend#5461, vllm-project/vllm-ascend#1955, hiyouga/LlamaFactory#5071, "
        "vllm-project/afd-plugin#229",
    ),
    KnownMessage(
        name="hccl-exec-timeout",
        pattern=_code("EI0002") + r"|Notify register times out|hccl fftsplus task timeout",
        cause="a rank waited longer than HCCL_EXEC_TIMEOUT in a collective: another one died, hangs, or is much slower",
        fix="look for a rank that failed with something else first, and for a slow one (data, validation, saving); a "
        "larger env.HCCL_EXEC_TIMEOUT only where a step may truly take that long",
        source="vllm-project/vllm-ascend#1443, hiyouga/LlamaFactory#975, InternLM/lmdeploy#3354, Ascend/pytorch#54",
    ),
    KnownMessage(
        name="stream-timeout",
        pattern=_code("EE1002") + r"|[Ss]tream synchronize timeout[.,:]|\[stream sync timeout\]|" + _result("507046"),
        cause="the device did not finish its queue in time, most often as a collective in it waits for another rank",
        fix="look for a rank that failed first; then as for EI0002",
        source="Ascend/pytorch#48, Ascend/pytorch#62",
    ),
    KnownMessage(
        name="hccl-init",
        pattern=r"[Hh]cclCommInitRootInfo\w*(?: fail|\(.*error code)|HcclGetRootInfo\b.*(?:fail|error)"
        r"|hccl initialize failed",
        cause="HCCL could not form the group of ranks: wrong network interface, a device used twice, or a taken port",
        fix="several machines: env.HCCL_SOCKET_IFNAME with the interface that reaches the others; one machine: free "
        "devices and ports, `qvl doctor --recipe RECIPE`",
        source="gpustack/gpustack#2021, vllm-project/vllm-ascend#2712, vllm-project/vllm-ascend#405",
    ),
    KnownMessage(
        name="worker-lost",
        pattern=r"Time out nodes are \[|The total number of timed out node is [1-9]"
        r"|meta server node can not be finalized because there are still",
        cause="msrun's scheduler lost a worker: that one failed or was busy for longer than MS_NODE_TIMEOUT",
        fix="read the log of the worker that it names; on a loaded or large cluster env.MS_NODE_TIMEOUT = 900",
        source="candle-org/MindAct#1983, MindSpore sources",
    ),
)

# Says only that something inside CANN failed: told where no other row fits.
INNER_ERROR = KnownMessage(
    name="inner-error",
    pattern=_code(r"E\w9999"),
    cause="something inside CANN failed; the lines below it name the function",
    fix="run again with env.ASCEND_GLOBAL_LOG_LEVEL = 1 and env.ASCEND_SLOG_PRINT_TO_STDOUT = 1, and read what comes "
    "before it; `qvl doctor --devices` tries the device on its own",
    source="mindspore-ai/mindspore#319, tile-ai/tilelang-ascend#82, mindspore-lab/mindaudio#164, Ascend/pytorch#66",
)


def known_in(lines: Iterable[str]) -> tuple[Match, ...]:
    """Give the known messages among the lines, those that explain most first, at most two."""
    kept = [line[:_LINE_LIMIT] for line in lines]
    found: list[Match] = []
    for known in (*KNOWN, INNER_ERROR):
        if known is INNER_ERROR and found:
            break
        pattern = re.compile(known.pattern)
        line = next((line for line in kept if pattern.search(line)), None)
        if line is not None:
            found.append(Match(known=known, line=line.strip()))
    return tuple(found[:_SHOWN])


def explained_lines(matches: Iterable[Match]) -> list[str]:
    """Write the matches for a person: the line, its cause, the fix."""
    lines = []
    for match in matches:
        lines.append(f"  known message: {match.line[:200]}")
        lines.append(f"    cause: {match.known.cause}")
        lines.append(f"    fix: {match.known.fix}")
        lines.append(f"    seen in: {match.known.source}")
    return lines
