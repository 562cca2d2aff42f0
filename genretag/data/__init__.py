"""Labels of posters: the reader of label CSVs, the multi-hot matrix, and the train/validation/test split."""
