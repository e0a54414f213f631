"""The dataset in a plain torch DataLoader: rows in the workers, epochs in the loop's process."""
