"""`genretag warehouse`: SQL for the warehouse that reads an output, generated from a bundle's labels."""
