"""Images: reading them, fitting them to the networks, and PNG files with their settings."""
