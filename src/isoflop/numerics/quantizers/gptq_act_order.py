"""GPTQ with act-order: input channels by falling power, scales fixed beforehand."""

from __future__ import annotations

from functools import partial

from .gptq import Gptq

QUANTIZER = partial(Gptq, order="act")
