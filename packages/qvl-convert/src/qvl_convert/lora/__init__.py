"""The merge of a LoRA adapter in PEFT's format from folder to folder; the arithmetic is qvl-core's (`weights.lora`)."""

from qvl_convert.lora.plan import plan_merge

__all__ = ["plan_merge"]
