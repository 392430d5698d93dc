"""VQ tokenizer: encodes images as a grid of codebook entries and decodes them, in LlamaGen's VQ-16 format."""
