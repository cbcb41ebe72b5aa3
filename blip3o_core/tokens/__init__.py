"""Images as tokens: written by the language model, put together, kept in files, shown."""
