"""Reports on runs: pages of one HTML file that hold everything they show."""
