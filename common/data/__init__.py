"""Images and labels, from files to batches."""
