"""`mprm annotate`: which steps deserve more continuations, and what they say."""
