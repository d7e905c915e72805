"""Scores of training methods and models at equal cost."""
