"""One module per on-disk format; see ``formats.base`` for what each provides."""
