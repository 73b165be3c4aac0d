"""The layouts of the tiny model that are compared. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Degrees and what goes with them; the stage lists are derived."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    zero1: bool = False
    recompute: str = "none"

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def name(self) -> str:
        words = [f"tp{self.tp}", f"pp{self.pp}", f"dp{self.dp}"]
        words += ["zero1"] if self.zero1 else []
        words += [f"recompute_{self.recompute}"] if self.recompute != "none" else []
        return " ".join(words)

    def settings(self) -> list[str]:
        """Give the `--set` arguments for `tiny_sft`."""
        degrees = [f"layout.tp={self.tp}", f"layout.pp={self.pp}", f"layout.dp={self.dp}"]
        return [*degrees, f"layout.zero1={str(self.zero1).lower()}", f"layout.recompute={self.recompute}"]


SINGLE = Combination()
QUICK = (
    SINGLE,
    Combination(tp=2),
    Combination(pp=2),
    Combination(dp=2),
    Combination(dp=2, zero1=True),
    Combination(tp=2, pp=2),
    Combination(tp=2, pp=2, dp=2, zero1=True),
)
ALL = (
    SINGLE,
    Combination(recompute="full"),
    Combination(tp=2),
    Combination(tp=2, recompute="full"),
    Combination(pp=2),
    Combination(dp=2),
    Combination(dp=2, zero1=True),
    Combination(tp=2, pp=2),
    Combination(tp=2, dp=2),
    Combination(pp=2, dp=2, zero1=True),
    Combination(pp=4),
    Combination(dp=4, zero1=True),
    Combination(tp=2, pp=2, dp=2, zero1=True),
    Combination(tp=2, pp=4),
    Combination(pp=4, dp=2, zero1=True),
    Combination(pp=8),
    Combination(dp=8, zero1=True),
)
