"""What reinforcement learning of the language model and of the diffusion share."""
