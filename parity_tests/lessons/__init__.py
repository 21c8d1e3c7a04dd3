"""The lessons: their exercises, the site, the dictionary."""
