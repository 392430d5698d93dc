"""VQ tokenizer: images to a grid of codebook entries and back, in LlamaGen's VQ-16 format."""
