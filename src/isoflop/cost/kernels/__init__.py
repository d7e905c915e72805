"""Kernel time models: few named physical parameters, fitted per device family."""

from .shape import DeviceShape

__all__ = ["DeviceShape"]
