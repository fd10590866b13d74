"""The pictures, drawn from the results store and the theory."""
