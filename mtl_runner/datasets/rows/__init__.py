"""Tables of rows: reading files, the types of columns, labels, and what is fitted on the training part."""
