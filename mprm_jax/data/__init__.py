"""The files people have: formats, corpus index, subsets and their manifests."""
