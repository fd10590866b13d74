"""What runs leave behind: results, manifests, and the subsets they name."""
