"""A bundle and labelled posters -> figures with their intervals, beside the null model's and another bundle's."""
