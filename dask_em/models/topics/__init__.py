"""Topic models: what they share, one file per inference, and what to do with topics."""
