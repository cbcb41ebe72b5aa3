"""Rendering: the sampler, reference images inside the network, and what is computed once a run."""
