"""What is computed: one file per model."""
