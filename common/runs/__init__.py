"""What a training run keeps on disk, and the recipes it starts from."""
