"""Published checkpoints: which there are, where they belong, and how they are fetched when a user asks for one."""
