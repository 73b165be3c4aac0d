"""Measuring a training step of ours against HF transformers on torch. See ../training_speed.py."""
