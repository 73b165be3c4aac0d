"""One case: a model, a layout, how it is trained and on what. Pure; what the programs and the tests speak about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qvl_core.layout import Layout
from qvl_core.lora_table import TARGETS, Lora, weight_table
from qvl_core.params import Parameter
from specs import SPECS

Recompute = Literal["none", "full", "vision", "merger", "text"]
Mix = Literal["images", "videos", "text", "mixed", "sparse", "unlabelled"]

COMPONENTS = ("vision", "merger", "text")
RECOMPUTE: tuple[Recompute, ...] = ("none", "full", "vision", "merger", "text")
MIXES: tuple[Mix, ...] = ("images", "videos", "text", "mixed", "sparse", "unlabelled")
REDUCTIONS = ("token", "sample", "micro_batch")
# All but freezing everything, which leaves nothing to train.
FREEZES: tuple[tuple[str, ...], ...] = (
    (),
    ("vision",),
    ("merger",),
    ("text",),
    ("vision", "merger"),
    ("vision", "text"),
    ("merger", "text"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run of `steps` steps. `accumulation` counts the micro batches of each replica in a step.

    `adapters` are components all of whose linear layers have adapters, with dropout; the model itself is then frozen.
    `broken` is something that is made wrong on purpose, to see it found: see `sabotage`.
    """

    spec: str = "tiny"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    vision_stages: tuple[int, ...]
    text_stages: tuple[int, ...]
    zero1: bool = False
    recompute: Recompute = "none"
    accumulation: int = 1
    mix: Mix = "mixed"
    freeze: tuple[str, ...] = ()
    reduction: str = "token"
    steps: int = 1
    adapters: tuple[str, ...] = ()
    broken: str = ""

    @property
    def layout(self) -> Layout:
        return Layout(
            tp=self.tp, pp=self.pp, dp=self.dp, vision_stages=self.vision_stages, text_stages=self.text_stages
        )

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def micro_batches(self) -> int:
        """Count the micro batches of a step over all replicas."""
        return self.dp * self.accumulation

    @property
    def name(self) -> str:
        """Give the case in one word, as pytest shows it."""
        stages = f"v{'.'.join(map(str, self.vision_stages))}-t{'.'.join(map(str, self.text_stages))}"
        parts = [self.spec, f"tp{self.tp}", f"pp{self.pp}", f"dp{self.dp}", stages, f"acc{self.accumulation}", self.mix]
        parts += ["zero1"] if self.zero1 else []
        parts += [f"recompute_{self.recompute}"] if self.recompute != "none" else []
        parts += [f"frozen_{'+'.join(self.freeze)}"] if self.freeze else []
        parts += [f"adapters_{'+'.join(self.adapters)}"] if self.adapters else []
        parts += [f"per_{self.reduction}"] if self.reduction != "token" else []
        parts += [f"{self.steps}steps"] if self.steps > 1 else []
        parts += [f"broken_{self.broken}"] if self.broken else []
        return "-".join(parts)

    @property
    def reference(self) -> Case:
        """Give the single process that this case has to equal: the same samples, all in one place, nothing clever."""
        spec = SPECS[self.spec]
        return Case(
            spec=self.spec,
            vision_stages=(spec.vision.depth,),
            text_stages=(spec.text.num_layers,),
            accumulation=self.micro_batches,
            mix=self.mix,
            freeze=self.freeze,
            reduction=self.reduction,
            steps=self.steps,
            adapters=self.adapters,
        )

    @property
    def lora(self) -> Lora | None:
        """Give the settings of the adapters; odd numbers, so that none stands for another."""
        if not self.adapters:
            return None
        targets = tuple(dict.fromkeys(name for component in self.adapters for name in TARGETS[component]))  # type: ignore[index]
        return Lora(rank=3, alpha=5.0, dropout=0.2, components=self.adapters, targets=targets)  # type: ignore[arg-type]

    def trained_rows(self, *, whole: bool = False) -> list[Parameter]:
        """List the rows of what trains, on the stages of the layout or, `whole`, on one."""
        rows = weight_table(SPECS[self.spec], self.lora, None if whole else self.layout)
        return [row for row in rows if row.component not in self.freeze]

    def to_json(self) -> dict[str, Any]:
        """Give the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Case:
        """Read the fields."""
        lists = ("vision_stages", "text_stages", "freeze", "adapters")
        return cls(**{key: tuple(value) if key in lists else value for key, value in fields.items()})
