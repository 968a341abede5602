"""The codec around any ClientApp and any Flower strategy."""
