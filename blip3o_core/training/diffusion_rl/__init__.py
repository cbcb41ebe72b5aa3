"""Reinforcement learning of the diffusion transformer."""
