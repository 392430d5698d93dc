"""The detector as it runs on the line: export to ONNX and OpenVINO, the runtime, its latency."""
