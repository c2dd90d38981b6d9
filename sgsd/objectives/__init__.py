"""Objectives: pure functions of tensors, one file a loss. They import torch and nothing else."""
