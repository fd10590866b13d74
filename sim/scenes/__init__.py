"""A visual reasoning world: images, a fallible policy, Monte-Carlo labels, truth."""
