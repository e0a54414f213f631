"""The tie: which sample an output, a row or a loss belongs to. No files, no network."""
