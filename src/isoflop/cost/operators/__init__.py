"""Operators: what one forward pass of a model does, as linear functions of batch features."""

from .assemble import forward_operators
from .base import Coefficients, GemmShape, Operator

__all__ = ["Coefficients", "GemmShape", "Operator", "forward_operators"]
