"""Made-up folders of CANN."""

from __future__ import annotations

from pathlib import Path


def cann_folder(folder: Path, version: str, ops: bool = True) -> dict[str, str]:
    """Make a toolkit of this version, with operators or without, and give the environment that set_env.sh would."""
    (folder / "x86_64-linux").mkdir(parents=True)
    (folder / "x86_64-linux" / "ascend_toolkit_install.info").write_text(f"package_name=x\nversion={version}\n")
    if ops:
        (folder / "opp").mkdir()
        (folder / "x86_64-linux" / "ascend_ops_install.info").write_text(f"package_name=y\nversion={version}\n")
    return {"ASCEND_HOME_PATH": str(folder), "LD_LIBRARY_PATH": f"{folder}/lib64:{folder}/lib64/plugin"}
