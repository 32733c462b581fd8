"""Linear estimates of what edits do: gradients and attribution patching, and how far to trust them."""
