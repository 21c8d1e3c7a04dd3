"""The lessons as a site, built from the source, and what they measure."""
