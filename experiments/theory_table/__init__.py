"""Every statement of the theory, by closed form, oracle and simulation."""
