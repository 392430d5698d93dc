"""EfficientAD (arXiv 2303.14535): a student-teacher pair and an autoencoder that detect anomalies."""
