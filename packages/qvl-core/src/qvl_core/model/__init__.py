"""The Qwen2.5-VL model in MindSpore.

Whole:     Qwen25VL (from_pretrained, from_spec, token_losses, generate)
Parts:     VisionEncoder, TextDecoder
Host side: Plan, plan_batch, Prompt, flatten_prompt, random_weights
"""

from qvl_core.device import require_mindspore

# Before the first import of mindspore below: the device's environment has to stand by then.
require_mindspore()

from qvl_core.model.initialize import random_weights  # noqa: E402
from qvl_core.model.inputs import Prompt, flatten_prompt  # noqa: E402
from qvl_core.model.plan import Plan, plan_batch  # noqa: E402
from qvl_core.model.qwen25vl import Qwen25VL  # noqa: E402
from qvl_core.model.text import TextDecoder  # noqa: E402
from qvl_core.model.vision import VisionEncoder  # noqa: E402

__all__ = [
    "Plan",
    "Prompt",
    "Qwen25VL",
    "TextDecoder",
    "VisionEncoder",
    "flatten_prompt",
    "plan_batch",
    "random_weights",
]
