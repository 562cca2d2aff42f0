"""Pages for people: the model card, the morning report, the gallery. Each page is one HTML file without network use."""
