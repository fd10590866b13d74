"""Rules, keep ratios and seeds: select, train, judge, compare."""
