"""The phase diagram: where selection pays, by knowledge and by where labels err."""
