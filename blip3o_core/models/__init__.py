"""The networks: Qwen3 with its connectors, the image tokenizer, the autoencoder, and SANA's few-step kind."""
