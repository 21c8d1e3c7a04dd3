"""The proof: pytest, and witnesses that are not ours."""
