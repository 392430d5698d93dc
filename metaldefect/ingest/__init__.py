"""Datasets: adapters, the merged sample table, leak-free splits, augmentation and validation."""
