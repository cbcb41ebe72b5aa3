"""Writing image tokens: prefill, the engines that decode, and how the next token is chosen."""
