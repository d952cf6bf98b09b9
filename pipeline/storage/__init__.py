"""Files of text, tensors and tables, written atomically and checked for damage."""
