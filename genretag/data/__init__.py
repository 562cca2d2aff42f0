"""Labels of posters: from a CSV to a multi-hot matrix, and the splits."""
