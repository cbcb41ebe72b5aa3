"""The networks: Qwen3 with its connectors, the image tokenizer, SANA with its mean-flow variant, the autoencoder."""
