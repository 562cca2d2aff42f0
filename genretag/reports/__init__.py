"""Pages that people look at: the model card, the morning report, the gallery. One HTML file each, no network."""
