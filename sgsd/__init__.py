"""SGSD: Skill-Conditioned Gated Self-Distillation."""

__version__ = "0.1.0"
