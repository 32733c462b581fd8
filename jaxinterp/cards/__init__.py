"""Model cards: what a trained model can do, measured, one file per model."""
