"""Equations of reinforcement learning: arrays in, arrays out."""
