"""Searching the settings of expensive training runs."""
