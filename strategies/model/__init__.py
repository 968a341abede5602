"""The model's vectors: layout, aggregation of updates, server optimisers, versions and their average."""
