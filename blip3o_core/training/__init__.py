"""Training: the joint loss of the paper and what feeds it."""
