"""GPTQ with the channels of the smallest pivots quantized last, scales fixed beforehand."""

from __future__ import annotations

from functools import partial

from .gptq import Gptq

QUANTIZER = partial(Gptq, order="min-pivot")
