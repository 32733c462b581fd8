"""The transformer: its description, its forward pass, and edits to it."""
