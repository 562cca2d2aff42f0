"""Pages for people: the model card, the report of a run, the gallery. Each is one self-contained HTML file."""
