"""Models that look at samples while these are measured: judges, which are rewards, and writers of texts."""
